"""Converts .wav files to log-mel energies of short frames with their neighbors.

The steps are those of Kaldi's `compute-fbank-feats`, `apply-cmvn` and `splice-feats`: frames of 25 ms every 10 ms,
without their mean, pre-emphasised, windowed; 40 triangles on the mel scale from 20 Hz to 8 kHz; the logarithm; mean and
variance of every band set to 0 and 1; five frames before and five behind.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.sniffing import what_is

Numbers = NDArray[np.float32]
RATE = 16_000
FRAME, STEP, FFT = 400, 160, 512  # samples
BANDS, LOWEST_HZ = 40, 20.0
CONTEXT = 5
WIDTH = BANDS * (2 * CONTEXT + 1)
"""Numbers of one frame with its neighbours."""
FRAMES = 100
"""In one inference: the first second of what is given. Shorter recordings are padded with their last frame."""
NEEDED = (FRAMES - 1) * STEP + FRAME
MAX_S = 600.0
LEAST_RATE, MOST_RATE = 4_000, 192_000
LEAST_ENERGY = 1e-10


@dataclass(frozen=True)
class Waveform:
    """Sound of one channel, 16,000 float32 samples a second from -1 to 1; no more than one inference needs."""

    samples: Numbers
    whole_s: float
    """How long the recording is that it was taken from."""
    note: str = ""
    """What a user should know of the file."""

    @property
    def frames(self) -> int:
        """How many whole frames there are."""
        return min(FRAMES, 1 + (len(self.samples) - FRAME) // STEP)

    @property
    def times(self) -> tuple[str, ...]:
        """When each frame begins."""
        return tuple(f"{number * STEP / RATE:.2f} s" for number in range(self.frames))


def read_wav(path: Path) -> Waveform:
    """Read the beginning of a .wav file: PCM of 8 to 32 bits or floats, mono or stereo, any usual rate.

    The sizes in its head are not believed: a recorder that was stopped, or a pipe, leaves 0 or 4 GiB there. What is in
    the file is read. Raises UsageError where it is missing, no such file, shorter than a frame, or longer than ten
    minutes.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            form, start, length_bytes, promised = _sound_in(path, file)
            _check(path, form, length_bytes // form.frame_bytes)
            length = length_bytes // form.frame_bytes
            count = min(length, math.ceil(1.2 * NEEDED * form.rate / RATE))  # the resampling filter looks ahead
            file.seek(start)
            data = file.read(count * form.frame_bytes)
    except OSError as error:
        raise UsageError(f"cannot read {path} as a .wav file: {error.strerror or error}") from None
    data = data[: len(data) - len(data) % form.frame_bytes]
    samples = _resampled(form.decoded(data), form.rate)
    if len(samples) < FRAME:
        raise UsageError(f"{path} lasts {length / form.rate:.4g} s: the minimum is {FRAME / RATE:g} s")
    if not np.isfinite(samples).all():
        raise UsageError(f"{path} contains NaN or infinity")
    is_cut = length_bytes < promised < UNKNOWN
    note = f"truncated, its header declares {promised / form.frame_bytes / form.rate:.4g} s" if is_cut else ""
    return Waveform(samples[:NEEDED], length / form.rate, note)


@dataclass(frozen=True)
class _Form:
    """How samples are written."""

    is_float: bool
    channels: int
    rate: int
    width: int
    """Bytes of one sample."""
    order: str
    """`<`, or `>` in a RIFX file."""

    @property
    def frame_bytes(self) -> int:
        """Of one moment, all channels."""
        return self.channels * self.width

    def decoded(self, data: bytes) -> NDArray[np.float64]:
        """The mean of the channels, full scale -1 to 1."""
        raw = np.frombuffer(data, np.uint8).reshape(-1, self.width)
        if self.is_float:
            values = raw.view(f"{self.order}f{self.width}").astype(np.float64)
        elif self.width == 1:  # the only ones without a sign
            values = (raw.astype(np.float64) - 128) / 128
        else:
            high_last = raw if self.order == "<" else raw[:, ::-1]
            wide = np.zeros((len(raw), 4), np.uint8)
            wide[:, 4 - self.width :] = high_last
            values = wide.view("<i4").astype(np.float64) / 2**31
        mono: NDArray[np.float64] = values.reshape(-1, self.channels).mean(axis=1)
        return mono


_ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_PACKED = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x31: "GSM", 0x50: "MPEG", 0x55: "MP3", 0xFF: "AAC"}
_CONVERT = "ffmpeg -i FILE -c:a pcm_s16le FILE.wav"
MAX_CHUNKS = 1000
UNKNOWN = 0x7FFF0000
"""From here on, bytes that a head promises are what a pipe writes that cannot know."""


def _sound_in(path: Path, file: BinaryIO) -> tuple[_Form, int, int, int]:
    """How samples are written, where they start, how many bytes of them there are, and how many the head promises.

    Raises UsageError.
    """
    head = file.read(12)
    order = _ORDERS.get(head[:4])
    if order is None or head[8:12] != b"WAVE":
        raise UsageError(f"cannot read {path} as a .wav file: {_other(path, head)}")
    whole = path.stat().st_size
    form, place = None, 12
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        name, size = _chunk(file.read(8), order)
        if name == b"fmt ":
            form = _form(path, file.read(min(size, 40)), order)
        if name == b"data":
            if form is None:
                raise UsageError(f"cannot read {path} as a .wav file: it has no sample format")
            return form, place + 8, _length(file, place + 8, size, whole, order), size
        if not name or place >= whole:
            break
        place = _next(file, place + 8 + size, order)
    raise UsageError(f"cannot read {path} as a .wav file: it is truncated and contains no samples")


def _other(path: Path, head: bytes) -> str:
    if len(head) < 12:
        return "it is empty or truncated"
    known = what_is(path)
    return f"it is {known}" if known is not None else "it does not start with RIFF and WAVE"


def _chunk(head: bytes, order: str) -> tuple[bytes, int]:
    """Name and size of a chunk; no name where there is none."""
    if len(head) < 8 or not all(32 <= letter < 127 for letter in head[:4]):
        return b"", 0
    return head[:4], int.from_bytes(head[4:8], "little" if order == "<" else "big")


def _next(file: BinaryIO, end: int, order: str) -> int:
    """Where the chunk behind one that ends there begins: at an even place, but some writers leave the padding out."""
    if end % 2:
        file.seek(end)
        if _chunk(file.read(8), order)[0]:  # the padding would be a zero, which is no letter of a name
            return end
    return end + end % 2


def _length(file: BinaryIO, start: int, promised: int, whole: int, order: str) -> int:
    """Bytes of sound: what the head promises where other chunks or nothing follow, else all that is in the file."""
    there = whole - start
    if promised >= there:
        return there
    place = _next(file, start + promised, order)
    while place < whole - 7:  # behind it has to be a chain of chunks up to the end
        file.seek(place)
        name, size = _chunk(file.read(8), order)
        if not name or place + 8 + size > whole:
            return there
        place = _next(file, place + 8 + size, order)
    return promised


def _form(path: Path, fields: bytes, order: str) -> _Form:
    """Of a `fmt ` chunk. Raises UsageError for what is not plain samples."""
    if len(fields) < 16:
        raise UsageError(f"cannot read {path} as a .wav file: its `fmt ` chunk is truncated")
    kind, channels, rate, _, align, bits = struct.unpack(f"{order}HHIIHH", fields[:16])
    if kind == _EXTENSIBLE and len(fields) >= 26:
        kind = struct.unpack(f"{order}H", fields[24:26])[0]
    if kind not in (_PCM, _FLOAT):
        packed = _PACKED.get(kind, f"of kind {kind:#x}")
        raise UsageError(f"cannot read {path} as a .wav file: its samples are {packed}, not PCM: {_CONVERT}")
    width = -(-bits // 8)
    if channels and align % channels == 0 and width < align // channels <= 4:
        width = align // channels  # 24 bits in 32, say, the lowest of which are empty
    if channels not in (1, 2):
        raise UsageError(f"{path} has {channels} channels: convert it to mono or stereo")
    if width not in ((4, 8) if kind == _FLOAT else (1, 2, 3, 4)):
        what = "floats" if kind == _FLOAT else "whole numbers"
        raise UsageError(f"{path} has {what} of {bits} bits per sample: {_CONVERT}")
    return _Form(kind == _FLOAT, channels, rate, width, order)


def _check(path: Path, form: _Form, length: int) -> None:
    if not LEAST_RATE <= form.rate <= MOST_RATE:
        raise UsageError(f"{path} has {form.rate} samples per second: the range is {LEAST_RATE} to {MOST_RATE}")
    if length / form.rate > MAX_S:
        raise UsageError(f"{path} lasts {length / form.rate:.0f} s: the maximum is {MAX_S:.0f} s")


def _resampled(samples: NDArray[np.float64], rate: int) -> Numbers:
    if rate == RATE:
        return samples.astype(np.float32)
    from scipy.signal import resample_poly  # takes a moment, and most files need it not

    shared = math.gcd(rate, RATE)
    resampled: Numbers = resample_poly(samples, RATE // shared, rate // shared).astype(np.float32)
    return resampled


def features(sound: Waveform) -> Numbers:
    """Spliced frames, shape (1, 100, 440), float32: for each the bands of itself and its neighbours, first to last."""
    bands = log_mel(sound.samples)[: sound.frames]
    bands = (bands - bands.mean(axis=0)) / np.maximum(bands.std(axis=0), 1e-3)  # a band that never changes says nothing
    spliced = np.arange(FRAMES)[:, None] + np.arange(-CONTEXT, CONTEXT + 1)
    windows: Numbers = bands[np.clip(spliced, 0, len(bands) - 1)].reshape(1, FRAMES, -1)
    return windows


def log_mel(samples: Numbers) -> Numbers:
    """Logarithms of the energies of all whole frames, shape (frames, 40)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::STEP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    shape = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** 0.85  # Kaldi's own window
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * shape, FFT)) ** 2
    bands: Numbers = np.log(np.maximum(power @ _triangles().T, LEAST_ENERGY)).astype(np.float32)
    return bands


def _triangles() -> NDArray[np.float64]:
    """Weights of the frequencies in each band, shape (40, 257): triangles of equal width on the mel scale."""

    def mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127 * np.log1p(hertz / 700)

    lowest, highest = mel(np.array([LOWEST_HZ, RATE / 2])).tolist()
    edges = np.linspace(lowest, highest, BANDS + 2)
    places = mel(np.arange(FFT // 2 + 1) * RATE / FFT)[None]
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - left) / (middle - left), (right - places) / (right - middle)
    triangles: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    return triangles


def synthesised() -> Waveform:
    """Three vowels, a, i and u: pulses at the pitch of a falling voice through resonances at the vowels' formants.

    The formants are the means of Peterson and Barney (1952) for men.
    """
    from scipy.signal import lfilter

    count = NEEDED // 3 + 1
    pitch = np.linspace(130, 100, 3 * count)
    pulses = np.diff(np.floor(np.cumsum(pitch / RATE)), prepend=0.0)
    parts = []
    for number, formants in enumerate(((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240))):
        part = pulses[number * count : (number + 1) * count]
        for hertz in formants:
            radius = math.exp(-math.pi * 80 / RATE)
            part = lfilter([1.0], [1.0, -2 * radius * math.cos(2 * math.pi * hertz / RATE), radius**2], part)
        parts.append(part / np.abs(part).max() / 2)
    return Waveform(np.concatenate(parts)[:NEEDED].astype(np.float32), NEEDED / RATE)
