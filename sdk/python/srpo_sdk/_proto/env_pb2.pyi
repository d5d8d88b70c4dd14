from . import base_pb2 as _base_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeEnvRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Expert(_message.Message):
    __slots__ = ["failure", "noise", "steps"]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    failure: str
    noise: float
    steps: int
    def __init__(self, steps: _Optional[int] = ..., noise: _Optional[float] = ..., failure: _Optional[str] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ["images", "instruction", "proprio"]
    class ImagesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _base_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    PROPRIO_FIELD_NUMBER: _ClassVar[int]
    images: _containers.MessageMap[str, _base_pb2.Tensor]
    instruction: str
    proprio: _base_pb2.Tensor
    def __init__(self, images: _Optional[_Mapping[str, _base_pb2.Tensor]] = ..., proprio: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., instruction: _Optional[str] = ...) -> None: ...

class Render(_message.Message):
    __slots__ = ["observe", "record", "record_every"]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    RECORD_EVERY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    observe: _containers.RepeatedScalarFieldContainer[str]
    record: str
    record_every: int
    def __init__(self, observe: _Optional[_Iterable[str]] = ..., record: _Optional[str] = ..., record_every: _Optional[int] = ...) -> None: ...

class ResetRequest(_message.Message):
    __slots__ = ["grant", "lane", "max_steps", "render", "seed", "start_state", "task"]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    RENDER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    START_STATE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    grant: _base_pb2.Slot
    lane: int
    max_steps: int
    render: Render
    seed: int
    start_state: int
    task: str
    def __init__(self, lane: _Optional[int] = ..., task: _Optional[str] = ..., start_state: _Optional[int] = ..., seed: _Optional[int] = ..., max_steps: _Optional[int] = ..., render: _Optional[_Union[Render, _Mapping]] = ..., grant: _Optional[_Union[_base_pb2.Slot, _Mapping]] = ...) -> None: ...

class StepReply(_message.Message):
    __slots__ = ["actions", "episode_steps", "intended", "observation", "progress", "recorded", "steps_done", "success", "terminated", "truncated"]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    EPISODE_STEPS_FIELD_NUMBER: _ClassVar[int]
    INTENDED_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    actions: _base_pb2.Tensor
    episode_steps: int
    intended: _base_pb2.Tensor
    observation: Observation
    progress: float
    recorded: _base_pb2.Tensor
    steps_done: int
    success: bool
    terminated: bool
    truncated: bool
    def __init__(self, observation: _Optional[_Union[Observation, _Mapping]] = ..., recorded: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., steps_done: _Optional[int] = ..., episode_steps: _Optional[int] = ..., success: bool = ..., terminated: bool = ..., truncated: bool = ..., progress: _Optional[float] = ..., actions: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., intended: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ["actions", "expert", "grant", "lane", "render"]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    RENDER_FIELD_NUMBER: _ClassVar[int]
    actions: _base_pb2.Tensor
    expert: Expert
    grant: _base_pb2.Slot
    lane: int
    render: Render
    def __init__(self, lane: _Optional[int] = ..., actions: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., expert: _Optional[_Union[Expert, _Mapping]] = ..., render: _Optional[_Union[Render, _Mapping]] = ..., grant: _Optional[_Union[_base_pb2.Slot, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ["id", "instruction", "max_steps", "start_states", "suite", "tags", "unavailable"]
    class TagsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    START_STATES_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    instruction: str
    max_steps: int
    start_states: int
    suite: str
    tags: _containers.ScalarMap[str, str]
    unavailable: str
    def __init__(self, id: _Optional[str] = ..., suite: _Optional[str] = ..., instruction: _Optional[str] = ..., start_states: _Optional[int] = ..., max_steps: _Optional[int] = ..., tags: _Optional[_Mapping[str, str]] = ..., unavailable: _Optional[str] = ...) -> None: ...

class TasksRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...
