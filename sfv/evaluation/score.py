"""Scores of videos that were generated from test episodes, and of the truth beside them."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from tqdm import tqdm

from sfv.evaluation.videos import EpisodeVideos, decoded_truth
from sfv.generation.episodes import TrueEpisode
from sfv.metrics.gap import truth_values
from sfv.metrics.protocol import MetricValue, mean_value
from sfv.metrics.suite import (
    Progress,
    score_frames,
    score_long,
    score_next_chunk,
    score_return,
    score_true,
)
from sfv.models.world_model import WorldModel

Scores = dict[str, MetricValue]
_RETURN_CEILINGS = {
    "return_psnr_ceiling": "revisit_psnr_ceiling",
    "return_lpips_ceiling": "revisit_lpips_ceiling",
    "return_src_ceiling": "src_ceiling",
}
"""Names of the way back → names in the suite, as in the benchmark."""


class Scorer:
    """Scores rows against the same true episodes; what the truth scores is measured once.

    Args:
        world: decodes, and cuts episodes into chunks.
        episodes: the truth.
        seed: of random splits.
    """

    def __init__(self, world: WorldModel, episodes: Sequence[TrueEpisode], seed: int) -> None:
        self.world, self.episodes, self.seed = world, episodes, seed
        self.fps, self.chunk = episodes[0].meta.fps, world.num_generated
        self.true = [episode.video[: episode.meta.actions[-1].stop] for episode in episodes]
        self.revisits = [episode.meta.revisits for episode in episodes]
        self.ceilings = score_true(
            self.true, self.revisits, chunk_frames=self.chunk, fps=self.fps, seed=seed
        )

    def row(self, videos: Sequence[EpisodeVideos]) -> Scores:
        """All metrics of one row."""
        with tqdm(desc="measure", unit="video", leave=False) as bar:

            def progress(what: str, done: int, total: int) -> None:
                bar.set_description(f"measure {what}")
                bar.total, bar.n = total, done
                bar.refresh()

            next_chunks = [made.next_chunk for made in videos]
            scores = score_next_chunk(
                self._shown(videos), next_chunks, seed=self.seed, progress=progress
            )
            return scores | self._long(videos, progress)

    def truth(self) -> Scores:
        """The report's `truth`: what true videos score, and what they score through the codec and back.

        Distances between clips are left out of the decoded ones: they take as long as a row.
        """
        videos = [decoded_truth(self.world, episode) for episode in self.episodes]
        next_chunks = [made.next_chunk for made in videos]
        decoded = score_frames(self._shown(videos), next_chunks, seed=self.seed)
        ceilings = self.ceilings | self._return_ceilings(videos)
        return truth_values(decoded | self._long(videos), [ceilings])

    def _shown(self, videos: Sequence[EpisodeVideos]) -> list[Tensor]:
        """The true frames of the chunks that are generated from their true context."""
        firsts = [episode.meta.actions[0].stop for episode in self.episodes]
        cases = zip(self.true, firsts, videos, strict=True)
        return [video[n : n + len(made.next_chunk)] for video, n, made in cases]

    def _long(self, videos: Sequence[EpisodeVideos], progress: Progress | None = None) -> Scores:
        """Of the long videos, and of the ways back after the true way out."""
        scores = score_long(
            [made.long for made in videos],
            self.revisits,
            chunk_frames=self.chunk,
            fps=self.fps,
            reference=self.true,
            seed=self.seed,
            progress=progress,
            ceilings=self.ceilings,
        )
        cases = zip(self.true, self.revisits, videos, strict=True)
        back = [(true, pairs, made.returned) for true, pairs, made in cases]
        with_return = [(true, pairs, video) for true, pairs, video in back if video is not None]
        if not with_return:
            return scores
        true, revisits, returned = zip(*with_return, strict=True)
        return scores | score_return(returned, revisits, true, seed=self.seed)

    def _return_ceilings(self, videos: Sequence[EpisodeVideos]) -> Scores:
        """Ceilings of the way back: the truth's first against its later visits."""
        chosen = [i for i, made in enumerate(videos) if made.returned is not None]
        found = {}
        for name, theirs in _RETURN_CEILINGS.items() if chosen else ():
            value = self.ceilings[theirs]
            passport = replace(value.passport, metric=name, protocol="return")
            found[name] = mean_value([value.episodes[i] for i in chosen], passport)
        return found
