from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
DTYPE_FLOAT32: DType
DTYPE_FLOAT64: DType
DTYPE_INT64: DType
DTYPE_UINT8: DType
DTYPE_UNSPECIFIED: DType
ERROR_KIND_CANCELED: ErrorKind
ERROR_KIND_CORRUPT: ErrorKind
ERROR_KIND_DEADLINE: ErrorKind
ERROR_KIND_DIVERGED: ErrorKind
ERROR_KIND_EXHAUSTED: ErrorKind
ERROR_KIND_INTERNAL: ErrorKind
ERROR_KIND_INVALID: ErrorKind
ERROR_KIND_MISMATCH: ErrorKind
ERROR_KIND_NOT_FOUND: ErrorKind
ERROR_KIND_UNAVAILABLE: ErrorKind
ERROR_KIND_UNSPECIFIED: ErrorKind
ERROR_KIND_UNSUPPORTED: ErrorKind
KIND_ENCODER: Kind
KIND_ENV: Kind
KIND_POLICY: Kind
KIND_UNSPECIFIED: Kind

class ActionSpace(_message.Message):
    __slots__ = ["high", "low", "meaning", "names", "rate_hz"]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    high: _containers.RepeatedScalarFieldContainer[float]
    low: _containers.RepeatedScalarFieldContainer[float]
    meaning: str
    names: _containers.RepeatedScalarFieldContainer[str]
    rate_hz: float
    def __init__(self, names: _Optional[_Iterable[str]] = ..., low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ..., meaning: _Optional[str] = ..., rate_hz: _Optional[float] = ...) -> None: ...

class Arena(_message.Message):
    __slots__ = ["fd", "size"]
    FD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    fd: int
    size: int
    def __init__(self, fd: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class Camera(_message.Message):
    __slots__ = ["any_size", "height", "name", "view", "width"]
    ANY_SIZE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    any_size: bool
    height: int
    name: str
    view: str
    width: int
    def __init__(self, name: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., view: _Optional[str] = ..., any_size: bool = ...) -> None: ...

class CameraRequest(_message.Message):
    __slots__ = ["height", "name", "width"]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    name: str
    width: int
    def __init__(self, name: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class ConfigureReply(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ["arena", "cameras", "env", "lanes", "rank", "rendezvous", "scratch", "seed", "settings", "world_size"]
    class SettingsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ARENA_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    arena: Arena
    cameras: _containers.RepeatedCompositeFieldContainer[CameraRequest]
    env: EnvSpec
    lanes: int
    rank: int
    rendezvous: str
    scratch: str
    seed: int
    settings: _containers.MessageMap[str, Value]
    world_size: int
    def __init__(self, settings: _Optional[_Mapping[str, Value]] = ..., seed: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., rendezvous: _Optional[str] = ..., arena: _Optional[_Union[Arena, _Mapping]] = ..., lanes: _Optional[int] = ..., env: _Optional[_Union[EnvSpec, _Mapping]] = ..., cameras: _Optional[_Iterable[_Union[CameraRequest, _Mapping]]] = ..., scratch: _Optional[str] = ...) -> None: ...

class EnvSpec(_message.Message):
    __slots__ = ["action", "cameras", "expert", "expert_failures", "proprio", "record_camera"]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FAILURES_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    PROPRIO_FIELD_NUMBER: _ClassVar[int]
    RECORD_CAMERA_FIELD_NUMBER: _ClassVar[int]
    action: ActionSpace
    cameras: _containers.RepeatedCompositeFieldContainer[Camera]
    expert: bool
    expert_failures: _containers.RepeatedScalarFieldContainer[str]
    proprio: _containers.RepeatedScalarFieldContainer[str]
    record_camera: str
    def __init__(self, cameras: _Optional[_Iterable[_Union[Camera, _Mapping]]] = ..., action: _Optional[_Union[ActionSpace, _Mapping]] = ..., proprio: _Optional[_Iterable[str]] = ..., expert: bool = ..., record_camera: _Optional[str] = ..., expert_failures: _Optional[_Iterable[str]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ["detail", "hint", "kind", "message", "place"]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    detail: str
    hint: str
    kind: ErrorKind
    message: str
    place: str
    def __init__(self, kind: _Optional[_Union[ErrorKind, str]] = ..., message: _Optional[str] = ..., place: _Optional[str] = ..., hint: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ["busy", "ready", "since_progress_ms"]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    SINCE_PROGRESS_MS_FIELD_NUMBER: _ClassVar[int]
    busy: _containers.RepeatedScalarFieldContainer[str]
    ready: bool
    since_progress_ms: int
    def __init__(self, ready: bool = ..., busy: _Optional[_Iterable[str]] = ..., since_progress_ms: _Optional[int] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ["distributed", "doc", "kind", "max_lanes", "name", "protocol", "settings", "version", "versions"]
    class VersionsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DISTRIBUTED_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MAX_LANES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    distributed: bool
    doc: str
    kind: Kind
    max_lanes: int
    name: str
    protocol: int
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    version: str
    versions: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., version: _Optional[str] = ..., protocol: _Optional[int] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., doc: _Optional[str] = ..., max_lanes: _Optional[int] = ..., versions: _Optional[_Mapping[str, str]] = ..., distributed: bool = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Setting(_message.Message):
    __slots__ = ["choices", "default", "doc", "max", "min", "name"]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    choices: _containers.RepeatedScalarFieldContainer[str]
    default: Value
    doc: str
    max: float
    min: float
    name: str
    def __init__(self, name: _Optional[str] = ..., default: _Optional[_Union[Value, _Mapping]] = ..., doc: _Optional[str] = ..., choices: _Optional[_Iterable[str]] = ..., min: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class Slot(_message.Message):
    __slots__ = ["generation", "length", "offset"]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    generation: int
    length: int
    offset: int
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ["values"]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ["dtype", "inline", "shape", "slot"]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    inline: bytes
    shape: _containers.RepeatedScalarFieldContainer[int]
    slot: Slot
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., inline: _Optional[bytes] = ..., slot: _Optional[_Union[Slot, _Mapping]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ["bool_value", "float_value", "int_value", "list_value", "string_value"]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    bool_value: bool
    float_value: float
    int_value: int
    list_value: StringList
    string_value: str
    def __init__(self, bool_value: bool = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ..., string_value: _Optional[str] = ..., list_value: _Optional[_Union[StringList, _Mapping]] = ...) -> None: ...

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class ErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
