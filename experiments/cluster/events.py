"""Scalars of a TensorBoard event file, every record checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub import errors  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # type: ignore[import-untyped]
    PyRecordReader_New,
)
from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

from sfv.files import regular_file

SCALARS = "scalars"
"""The plugin of scalars that are stored as tensors."""


@dataclass(frozen=True)
class Scalar:
    """One value; `time` is the clock's, in seconds."""

    tag: str
    step: int
    time: float
    value: float


def scalars_of(path: Path) -> Iterator[Scalar]:
    """Read the scalars in the order in which they were written.

    A last record that was cut off is passed over: a run that is going on, or was killed, leaves one.

    Raises:
        ValueError: a record does not go with its checksum, and what follows cannot be read.
        OSError: it is no regular file.
    """
    for number, record in enumerate(_records(regular_file(path)), 1):
        try:
            event = Event.FromString(record)
            yield from _of_event(event)
        except (ValueError, TypeError, DecodeError) as error:
            raise ValueError(f"{path}: record {number} is no event ({error})") from error


def _records(path: Path) -> Iterator[bytes]:
    """TensorBoard itself stops at a damaged record and shows what stood before it."""
    reader, number = PyRecordReader_New(str(path)), 0
    while True:
        number += 1
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return
        except errors.DataLossError as error:
            if "truncated record" in str(error):
                return
            raise ValueError(
                f"{path}: record {number} is damaged (its checksum is another), and values from there on "
                "are lost; restore the file from a copy, or remove it if the run can do without"
            ) from error
        yield reader.record()


def _of_event(event: Event) -> Iterator[Scalar]:
    for value in event.summary.value:
        if value.HasField("simple_value"):
            number = value.simple_value
        elif value.metadata.plugin_data.plugin_name == SCALARS and value.HasField("tensor"):
            number = make_ndarray(value.tensor).item()
        else:
            continue
        yield Scalar(value.tag, event.step, event.wall_time, float(number))
