from . import base_pb2 as _base_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeEncoderRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class EncodeReply(_message.Message):
    __slots__ = ["embeddings"]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _base_pb2.Tensor
    def __init__(self, embeddings: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ["clips"]
    CLIPS_FIELD_NUMBER: _ClassVar[int]
    clips: _containers.RepeatedCompositeFieldContainer[_base_pb2.Tensor]
    def __init__(self, clips: _Optional[_Iterable[_Union[_base_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class EncodeWindowsRequest(_message.Message):
    __slots__ = ["clip", "ends"]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    clip: _base_pb2.Tensor
    ends: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, clip: _Optional[_Union[_base_pb2.Tensor, _Mapping]] = ..., ends: _Optional[_Iterable[int]] = ...) -> None: ...

class EncoderSpec(_message.Message):
    __slots__ = ["batch", "dimension", "frame_wise", "frames", "height", "model", "width"]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAME_WISE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    batch: int
    dimension: int
    frame_wise: bool
    frames: int
    height: int
    model: str
    width: int
    def __init__(self, dimension: _Optional[int] = ..., frames: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., batch: _Optional[int] = ..., frame_wise: bool = ..., model: _Optional[str] = ...) -> None: ...
