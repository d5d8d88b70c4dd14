from . import base_pb2 as _base_pb2
from . import env_pb2 as _env_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActItem(_message.Message):
    __slots__ = ["observation", "seed", "step", "trajectory"]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    observation: _env_pb2.Observation
    seed: int
    step: int
    trajectory: str
    def __init__(self, trajectory: _Optional[str] = ..., step: _Optional[int] = ..., observation: _Optional[_Union[_env_pb2.Observation, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class ActReply(_message.Message):
    __slots__ = ["results"]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ActResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ActResult, _Mapping]]] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ["greedy", "items", "record", "temperature"]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    greedy: bool
    items: _containers.RepeatedCompositeFieldContainer[ActItem]
    record: bool
    temperature: float
    def __init__(self, items: _Optional[_Iterable[_Union[ActItem, _Mapping]]] = ..., greedy: bool = ..., temperature: _Optional[float] = ..., record: bool = ...) -> None: ...

class ActResult(_message.Message):
    __slots__ = ["actions", "log_probs"]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    actions: _base_pb2.Tensor
    log_probs: _base_pb2.Tensor
    def __init__(self, actions: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., log_probs: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Demonstration(_message.Message):
    __slots__ = ["actions", "id", "images", "instruction", "proprio", "success", "weights"]
    class ImagesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _base_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    PROPRIO_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    actions: _base_pb2.Tensor
    id: str
    images: _containers.MessageMap[str, _base_pb2.Tensor]
    instruction: str
    proprio: _base_pb2.Tensor
    success: bool
    weights: _base_pb2.Tensor
    def __init__(self, id: _Optional[str] = ..., instruction: _Optional[str] = ..., images: _Optional[_Mapping[str, _base_pb2.Tensor]] = ..., proprio: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., actions: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., success: bool = ..., weights: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...

class DescribePolicyRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ForgetReply(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ["trajectories"]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, trajectories: _Optional[_Iterable[str]] = ...) -> None: ...

class Hyperparameters(_message.Message):
    __slots__ = ["clip_dual", "clip_high", "clip_low", "epochs", "kl_beta", "mini_batch"]
    CLIP_DUAL_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    KL_BETA_FIELD_NUMBER: _ClassVar[int]
    MINI_BATCH_FIELD_NUMBER: _ClassVar[int]
    clip_dual: float
    clip_high: float
    clip_low: float
    epochs: int
    kl_beta: float
    mini_batch: int
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ..., kl_beta: _Optional[float] = ..., epochs: _Optional[int] = ..., mini_batch: _Optional[int] = ..., clip_dual: _Optional[float] = ...) -> None: ...

class ImitateHeader(_message.Message):
    __slots__ = ["seed", "steps", "update_id"]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ID_FIELD_NUMBER: _ClassVar[int]
    seed: int
    steps: int
    update_id: int
    def __init__(self, update_id: _Optional[int] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class ImitateReply(_message.Message):
    __slots__ = ["done", "loss", "progress"]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    done: bool
    loss: float
    progress: float
    def __init__(self, progress: _Optional[float] = ..., loss: _Optional[float] = ..., done: bool = ...) -> None: ...

class ImitateRequest(_message.Message):
    __slots__ = ["demonstration", "header"]
    DEMONSTRATION_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    demonstration: Demonstration
    header: ImitateHeader
    def __init__(self, header: _Optional[_Union[ImitateHeader, _Mapping]] = ..., demonstration: _Optional[_Union[Demonstration, _Mapping]] = ...) -> None: ...

class LoadReply(_message.Message):
    __slots__ = ["update_id"]
    UPDATE_ID_FIELD_NUMBER: _ClassVar[int]
    update_id: int
    def __init__(self, update_id: _Optional[int] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ["folder", "fresh"]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    folder: str
    fresh: bool
    def __init__(self, folder: _Optional[str] = ..., fresh: bool = ...) -> None: ...

class PolicySpec(_message.Message):
    __slots__ = ["action", "cameras", "can_imitate", "chunk", "max_batch", "parameters", "proprio", "trainable", "weighs_steps"]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    CAN_IMITATE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PROPRIO_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHS_STEPS_FIELD_NUMBER: _ClassVar[int]
    action: _base_pb2.ActionSpace
    cameras: _containers.RepeatedCompositeFieldContainer[_base_pb2.CameraRequest]
    can_imitate: bool
    chunk: int
    max_batch: int
    parameters: int
    proprio: bool
    trainable: bool
    weighs_steps: bool
    def __init__(self, cameras: _Optional[_Iterable[_Union[_base_pb2.CameraRequest, _Mapping]]] = ..., proprio: bool = ..., action: _Optional[_Union[_base_pb2.ActionSpace, _Mapping]] = ..., chunk: _Optional[int] = ..., trainable: bool = ..., can_imitate: bool = ..., parameters: _Optional[int] = ..., max_batch: _Optional[int] = ..., weighs_steps: bool = ...) -> None: ...

class SaveReply(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class SaveRequest(_message.Message):
    __slots__ = ["folder"]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    folder: str
    def __init__(self, folder: _Optional[str] = ...) -> None: ...

class TrajectoryAdvantage(_message.Message):
    __slots__ = ["advantages", "steps", "trajectory"]
    ADVANTAGES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    advantages: _containers.RepeatedScalarFieldContainer[float]
    steps: int
    trajectory: str
    def __init__(self, trajectory: _Optional[str] = ..., advantages: _Optional[_Iterable[float]] = ..., steps: _Optional[int] = ...) -> None: ...

class UpdateReply(_message.Message):
    __slots__ = ["already_applied", "progress", "statistics"]
    ALREADY_APPLIED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    already_applied: bool
    progress: float
    statistics: UpdateStatistics
    def __init__(self, progress: _Optional[float] = ..., statistics: _Optional[_Union[UpdateStatistics, _Mapping]] = ..., already_applied: bool = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ["hyperparameters", "seed", "temperature", "trajectories", "update_id"]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ID_FIELD_NUMBER: _ClassVar[int]
    hyperparameters: Hyperparameters
    seed: int
    temperature: float
    trajectories: _containers.RepeatedCompositeFieldContainer[TrajectoryAdvantage]
    update_id: int
    def __init__(self, update_id: _Optional[int] = ..., trajectories: _Optional[_Iterable[_Union[TrajectoryAdvantage, _Mapping]]] = ..., hyperparameters: _Optional[_Union[Hyperparameters, _Mapping]] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class UpdateStatistics(_message.Message):
    __slots__ = ["clip_fraction", "entropy", "extra", "first_ratio", "grad_norm", "kl", "loss", "samples"]
    class ExtraEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLIP_FRACTION_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    FIRST_RATIO_FIELD_NUMBER: _ClassVar[int]
    GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    clip_fraction: float
    entropy: float
    extra: _containers.ScalarMap[str, float]
    first_ratio: float
    grad_norm: float
    kl: float
    loss: float
    samples: int
    def __init__(self, loss: _Optional[float] = ..., kl: _Optional[float] = ..., clip_fraction: _Optional[float] = ..., grad_norm: _Optional[float] = ..., entropy: _Optional[float] = ..., first_ratio: _Optional[float] = ..., samples: _Optional[int] = ..., extra: _Optional[_Mapping[str, float]] = ...) -> None: ...
