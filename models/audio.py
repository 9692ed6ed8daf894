"""From a .wav file to what an acoustic network reads: log-mel energies of short frames, each with its neighbours.

The steps are those of Kaldi's `compute-fbank-feats`, `apply-cmvn` and `splice-feats`: frames of 25 ms every 10 ms,
without their mean, pre-emphasised, windowed; 40 triangles on the mel scale from 20 Hz to 8 kHz; the logarithm; mean and
variance of every band set to 0 and 1; five frames before and five behind.
"""

import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import UsageError
from utils.files import require_file

Numbers = NDArray[np.float32]
RATE = 16_000
FRAME, STEP, FFT = 400, 160, 512  # samples
BANDS, LOWEST_HZ = 40, 20.0
CONTEXT = 5
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

    @property
    def frames(self) -> int:
        """How many whole frames there are."""
        return min(FRAMES, 1 + (len(self.samples) - FRAME) // STEP)

    @property
    def times(self) -> tuple[str, ...]:
        """When each frame begins."""
        return tuple(f"{number * STEP / RATE:.2f} s" for number in range(self.frames))


def read_wav(path: Path) -> Waveform:
    """Read the beginning of a .wav file: 16-bit PCM, mono or stereo, any usual rate.

    Raises UsageError where it is missing, no such file, cut off, shorter than a frame, or longer than ten minutes.
    """
    require_file(path)
    try:
        with path.open("rb") as file, wave.open(file, "rb") as sound:
            channels, rate, length = sound.getnchannels(), sound.getframerate(), sound.getnframes()
            _check(path, sound.getsampwidth(), channels, rate, length)
            count = min(length, math.ceil(1.2 * NEEDED * rate / RATE))  # the resampling filter looks ahead
            data = sound.readframes(count)
    except (wave.Error, EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it is empty or cut off"
        raise UsageError(f"cannot read {path} as a .wav file: {reason}") from None
    if len(data) != count * channels * 2:
        raise UsageError(f"{path} is cut off: its head promises {length / rate:.4g} s of sound")
    stereo = np.frombuffer(data, "<i2").reshape(-1, channels)
    samples = _resampled(stereo.mean(axis=1) / 32768, rate)
    if len(samples) < FRAME:
        raise UsageError(f"{path} lasts {length / rate:.4g} s: at least {FRAME / RATE:g} s are needed")
    return Waveform(samples[:NEEDED], length / rate)


def _check(path: Path, width: int, channels: int, rate: int, length: int) -> None:
    if width != 2:
        raise UsageError(f"{path} has {8 * width} bits a sample: save it as 16-bit PCM")
    if channels not in (1, 2):
        raise UsageError(f"{path} has {channels} channels: save it as mono or stereo")
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise UsageError(f"{path} has {rate} samples a second: {LEAST_RATE} to {MOST_RATE} are possible")
    if length / rate > MAX_S:
        raise UsageError(f"{path} lasts {length / rate:.0f} s: give a part of at most {MAX_S:.0f} s")


def _resampled(samples: NDArray[np.float64], rate: int) -> Numbers:
    if rate == RATE:
        return samples.astype(np.float32)
    from scipy.signal import resample_poly  # takes a moment, and most files need it not

    shared = math.gcd(rate, RATE)
    found: Numbers = resample_poly(samples, RATE // shared, rate // shared).astype(np.float32)
    return found


def features(sound: Waveform) -> Numbers:
    """Spliced frames, shape (1, 100, 440), float32: for each the bands of itself and its neighbours, first to last."""
    bands = log_mel(sound.samples)[: sound.frames]
    bands = (bands - bands.mean(axis=0)) / np.maximum(bands.std(axis=0), 1e-3)  # a band that never changes says nothing
    spliced = np.arange(FRAMES)[:, None] + np.arange(-CONTEXT, CONTEXT + 1)
    found: Numbers = bands[np.clip(spliced, 0, len(bands) - 1)].reshape(1, FRAMES, -1)
    return found


def log_mel(samples: Numbers) -> Numbers:
    """Logarithms of the energies of all whole frames, shape (frames, 40)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::STEP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    shape = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** 0.85  # Kaldi's own window
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * shape, FFT)) ** 2
    found: Numbers = np.log(np.maximum(power @ _triangles().T, LEAST_ENERGY)).astype(np.float32)
    return found


def _triangles() -> NDArray[np.float64]:
    """Weights of the frequencies in each band, shape (40, 257): triangles of equal width on the mel scale."""

    def mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127 * np.log1p(hertz / 700)

    lowest, highest = mel(np.array([LOWEST_HZ, RATE / 2])).tolist()
    edges = np.linspace(lowest, highest, BANDS + 2)
    places = mel(np.arange(FFT // 2 + 1) * RATE / FFT)[None]
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - left) / (middle - left), (right - places) / (right - middle)
    found: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None)
    return found


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
