"""Numbers of latents and of sampling paths that papers relate to how well generators learn the latents.

Every function computes in float64 and takes latents (N, T, C), tokens in row order on the grid (h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from ..models.latents import mean_and_std

Grid = tuple[int, int]
LEAST = 4  # latents of a class that has a covariance
CHUNK = 256  # latents, at most, that are converted to float64 at a time
BLOCK = 2**25  # numbers, at most, of what is computed at a time
TINY = 1e-20  # a squared length, or an energy, below which a vector counts as zero


# --- similarity of an image's tokens (iREPA: Singh et al., 2025, arXiv 2512.10794) --------------------------


def manhattan(grid: Grid) -> Tensor:
    """Distances |row - row'| + |column - column'| between the tokens of a grid (h, w): (T, T) int64."""
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    return (places[:, None] - places).abs().sum(-1)


def similarity_by_distance(z: Tensor, grid: Grid) -> Tensor:
    """The mean cosine similarity of an image's tokens at each Manhattan distance.

    Args:
        z: latents (N, T, C); a token of zeros has a similarity of 0 to all.

    Returns:
        Means over the pairs at distance 0, 1, ..., h + w - 2: (N, h + w - 1) float64.
    """
    distances = manhattan(grid).flatten()
    counts = distances.bincount()

    def means(chunk: Tensor) -> Tensor:
        unit = normalize(chunk.double(), dim=-1)
        pairs = (unit @ unit.mT).flatten(1)
        return pairs.new_zeros(len(pairs), len(counts)).index_add_(1, distances, pairs) / counts

    rows = max(1, min(CHUNK, BLOCK // z.shape[1] ** 2))
    return torch.cat([means(chunk) for chunk in z.split(rows)])


def local_similarities(by_distance: Tensor, grid: Grid, far: int) -> Tensor:
    """`local_similarity` of each image, (N,), from `similarity_by_distance` (N, h + w - 1)."""
    counts = manhattan(grid).flatten().bincount().double()
    if not 1 < far < len(counts):
        raise ValueError(
            f"far = {far}: a grid of {grid[0]} x {grid[1]} has distances from 1 to {len(counts) - 1}"
        )
    return by_distance[:, 1] - by_distance[:, far:] @ counts[far:] / counts[far:].sum()


def local_similarity(z: Tensor, grid: Grid, far: int) -> Tensor:
    """LDS: the mean cosine of 4-neighbours minus that of tokens at a Manhattan distance of `far` or more.

    This is iREPA's local-distant similarity as in the released code, a mean over images: ().
    """
    return local_similarities(similarity_by_distance(z, grid), grid, far).mean()


def similarity_decays(by_distance: Tensor, reach: int) -> Tensor:
    """`similarity_decay` of each image, (N,), from `similarity_by_distance` (N, h + w - 1)."""
    if not 1 < reach < by_distance.shape[1]:
        raise ValueError(
            f"reach = {reach}: a slope needs distances from 1 to 2 up to {by_distance.shape[1] - 1}"
        )
    distance = torch.arange(1, reach + 1, dtype=torch.float64)
    centred = distance - distance.mean()
    return -by_distance[:, 1 : reach + 1] @ centred / centred.square().sum()


def similarity_decay(z: Tensor, grid: Grid, reach: int) -> Tensor:
    """CDS: how fast cosine similarity falls with distance, a mean over images: ().

    This is minus the least-squares slope of iREPA's mean cosine at Manhattan distances 1, ..., `reach`, each
    with the same weight.
    """
    return similarity_decays(similarity_by_distance(z, grid), reach).mean()


def contrasts(z: Tensor) -> Tensor:
    """`rms_contrast` of each image: (N, T, C) -> (N,)."""

    def spread(chunk: Tensor) -> Tensor:
        unit = normalize(chunk.double(), dim=-1)
        return (unit - unit.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()

    return torch.cat([spread(chunk) for chunk in z.split(CHUNK)])


def rms_contrast(z: Tensor) -> Tensor:
    """RMSC: the root mean square distance of an image's unit tokens from their mean, over images: ().

    0 where all tokens of an image point in one direction, about 1 where tokens are unrelated (iREPA).
    """
    return contrasts(z).mean()


# --- spatial frequencies (2606.03578) -----------------------------------------------------------------------


def cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II: rows are frequencies 0, ..., size - 1, (size, size) float64."""
    frequency, place = torch.arange(size).double()[:, None], torch.arange(size).double()
    basis = torch.cos(math.pi / size * (place + 0.5) * frequency) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def spectral_energies(z: Tensor, grid: Grid) -> Tensor:
    """Energies (N, h, w) of the orthonormal two-dimensional DCT-II of each image, means over channels."""
    rows, columns = map(cosine_basis, grid)

    def energy(chunk: Tensor) -> Tensor:
        maps = chunk.double().mT.unflatten(2, grid)  # (b, C, h, w)
        return (rows @ maps @ columns.T).square().mean(1)

    return torch.cat([energy(chunk) for chunk in z.split(CHUNK)])


def is_beyond(grid: Grid, rho: float) -> Tensor:
    """Whether u + v > rho (h - 1 + w - 1), (h, w) bool, for frequencies u, v of the DCT."""
    u, v = (torch.arange(side) for side in grid)
    # A sum that equals the limit is not beyond, whatever the rounding of rho times an integer.
    return (u[:, None] + v).double() > rho * (sum(grid) - 2) + 1e-9


def spatial_energy_share(z: Tensor, grid: Grid, rho: float) -> Tensor:
    """SEC: the share of the latents' energy at frequencies u + v > rho (h - 1 + w - 1): () in [0, 1].

    Energies are those of the orthonormal two-dimensional DCT-II, averaged over images and channels. White
    latents have the share of cells that lie beyond in expectation, constant maps 0 (2606.03578).
    """
    energies = spectral_energies(z, grid).mean(0)
    return energies[is_beyond(grid, rho)].sum() / energies.sum().clamp(min=TINY)


# --- irreducible variance of the velocity (VIV: 2606.03578) -------------------------------------------------


def viv(z: Tensor, labels: Tensor | None, rounds: int = 5, normalise: bool = True) -> Tensor:
    """VIV: the variance of a flow's velocity that no network can predict, over all times, per number: ().

    If the latents of a class are N(m, S), the velocity's variance given x_t, t and the class, integrated over
    t from 0 to 1, is (pi / 2) times the sum of the roots of S's eigenvalues. VIV is the mean of these terms
    over dimensions and then over classes; it is pi / 2 for white latents. Values of latents of different
    shapes can't be compared (2606.03578, section "Velocity Ambiguity").

    Args:
        z: latents (N, T, C).
        labels: (N,); classes with fewer than 4 latents don't count. None: all latents are one class.
        rounds: iterations of the flip-flop estimate of S = (T x T) x (C x C).
        normalise: whether channels are first scaled to a mean of 0 and a deviation of 1, over N and T.

    Raises:
        ValueError: no class has 4 latents.
    """
    scale = channel_statistics(z)[1] if normalise else torch.ones(z.shape[-1]).double()
    values = [
        velocity_variance(z[rows], z.new_ones(len(rows)).double(), rounds, scale)
        for rows in classes_of(z, labels)
    ]
    return torch.stack(values).mean()


def classes_of(z: Tensor, labels: Tensor | None) -> list[Tensor]:
    """The rows of each class with at least 4 latents, or all rows without labels."""
    groups = [torch.arange(len(z))]
    if labels is not None:
        groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    groups = [rows for rows in groups if len(rows) >= LEAST]
    if not groups:
        raise ValueError(f"no class has {LEAST} of the {len(z)} latents: a covariance needs more of them")
    return groups


def channel_statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """The channels' means, and the factors that give them an unbiased deviation of 1; 1 for constant ones.

    They are over images and tokens: z (N, T, C) -> (C,) float64 each.
    """
    mean, std = mean_and_std(z.flatten(0, 1))
    return mean, torch.where(std > 1e-12, 1 / std.clamp(min=1e-12), 1.0)


def channel_variance(z: Tensor) -> float:
    """The mean square of latents (N, T, C) about their channels' means."""
    count = z.shape[0] * z.shape[1]
    if count < 2:
        return 0.0
    return (1 - 1 / count) * mean_and_std(z.flatten(0, 1))[1].square().mean().item()


def velocity_variance(z: Tensor, weights: Tensor, rounds: int, scale: Tensor) -> Tensor:
    """The mean of (pi / 2) sqrt(eigenvalue) over the T C dimensions of a class: ().

    The covariance is estimated as the Kronecker product of one over tokens and one over channels, by the
    flip-flop iteration from the identity, with pseudo-inverses, and scaled to the class's total variance.

    Args:
        z: latents (n, T, C).
        weights: (n,) of the latents; the result has derivatives by them.
        scale: factors (C,) of the channels.
    """
    share = weights / weights.sum()
    mean = _summed(lambda x, w: torch.tensordot(w, x, 1), z, share, scale)
    spatial = torch.eye(z.shape[1], dtype=torch.float64)
    channel = torch.eye(z.shape[2], dtype=torch.float64)
    for _ in range(rounds):
        inverse = torch.linalg.pinv(spatial, hermitian=True)
        channel = _summed(_channel_moment, z, share, scale, mean, inverse) / z.shape[1]
        inverse = torch.linalg.pinv(channel, hermitian=True)
        spatial = _summed(_spatial_moment, z, share, scale, mean, inverse) / z.shape[2]
    total = _summed(lambda x, w, m: w @ (x - m).square().sum((1, 2)), z, share, scale, mean)
    products = torch.outer(torch.linalg.eigvalsh(spatial), torch.linalg.eigvalsh(channel)).flatten()
    # Rounding leaves tiny eigenvalues where there are none, of either sign.
    products = products.where(products > products.detach().amax() * 1e-14, 0.0)
    roots = products.where(products > 0, 1.0).sqrt() * (products > 0)
    spread = products.sum().clamp(min=TINY)
    return math.pi / 2 * roots.mean() * (total / spread).clamp(min=TINY**2).sqrt()


def _channel_moment(x: Tensor, w: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """The weighted sum of X' inverse X over centred latents X: (C, C)."""
    x = x - mean
    return torch.einsum("ntc,ntd->cd", w[:, None, None] * x, inverse @ x)


def _spatial_moment(x: Tensor, w: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """The weighted sum of X inverse X' over centred latents X: (T, T)."""
    x = x - mean
    return torch.einsum("ntc,nsc->ts", w[:, None, None] * x, x @ inverse)


def _summed(
    function: Callable[..., Tensor], z: Tensor, weights: Tensor, scale: Tensor, *shared: Tensor
) -> Tensor:
    """The sum over chunks of function(scaled float64 latents, weights, *shared).

    A backward pass computes several chunks again, as those of all rounds would take many times the latents'
    memory.
    """

    def term(chunk: Tensor, w: Tensor, *others: Tensor) -> Tensor:
        return function(chunk.double() * scale, w, *others)

    parts = zip(z.split(CHUNK), weights.split(CHUNK), strict=True)
    if len(z) <= CHUNK:
        return term(z, weights, *shared)
    terms = (checkpoint(term, chunk, w, *shared, use_reentrant=False) for chunk, w in parts)
    total: Tensor = reduce(torch.add, terms)
    return total


# --- classes among neighbours (2606.03578) ------------------------------------------------------------------


def label_shares(z: Tensor, labels: Tensor, k: int) -> Tensor:
    """`label_consistency` of each image: (N, T, C), labels (N,) -> (N,)."""
    if not 0 < k < len(z):
        raise ValueError(f"k = {k} neighbours are asked for, and there are {len(z) - 1} other latents")
    unit = normalize(torch.cat([chunk.double().mean(1) for chunk in z.split(CHUNK)]), dim=1)
    shares = []
    for rows in torch.arange(len(unit)).split(CHUNK):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf  # not itself
        shares.append((labels[cosines.topk(k).indices] == labels[rows, None]).double().mean(1))
    return torch.cat(shares)


def label_consistency(z: Tensor, labels: Tensor, k: int) -> Tensor:
    """LNC: the share of a latent's k nearest others that have its label, a mean over images: () in [0, 1].

    Nearest by the cosine of mean tokens. The paper takes the mean over foreground tokens, by masks that
    datasets rarely have, and doesn't name k and the distance (2606.03578).
    """
    return label_shares(z, labels, k).mean()


# --- interpolation between neighbours (iFID: 2603.05630) ----------------------------------------------------


def slerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Spherical interpolation from a (alpha = 0) to b (alpha = 1), in the shape of a, float64.

    Vectors are the rows of (N, ...) flattened, or (D,) as a whole. They are not normalised: the result is
    sin((1 - alpha) theta) / sin(theta) a + sin(alpha theta) / sin(theta) b, where theta is the angle between
    them, and linear where sin(theta) < 1e-6.
    """
    if a.dim() == 1:
        return slerp(a[None], b[None], alpha)[0]
    x, y = a.double().flatten(1), b.double().flatten(1)
    u, v = normalize(x, dim=1), normalize(y, dim=1)
    # The arc cosine would lose half of the digits of small angles.
    theta = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    sine = theta.sin()
    curved = sine >= 1e-6
    safe = torch.where(curved, sine, 1.0)
    left = torch.where(curved, ((1 - alpha) * theta).sin() / safe, 1 - alpha)
    right = torch.where(curved, (alpha * theta).sin() / safe, alpha)
    return (left * x + right * y).view_as(a)


SPARE = 8  # candidates beside the k nearest, whose order float32 may have wrong


def interpolation_neighbours(train: Tensor, val: Tensor, k: int) -> Tensor:
    """The k rows of `train` (M, ...) with the largest cosine to each row of `val` (n, ...): (n, k) int64.

    Rows are flattened, and neighbours are in order, the nearest first. faiss finds candidates in float32,
    block by block, so that training latents may be a file larger than memory; float64 orders them.
    """
    import faiss

    if not 0 < k <= len(train):
        raise ValueError(f"k = {k} neighbours are asked for among {len(train)} latents")
    wanted = min(k + SPARE, len(train))
    queries = normalize(val.flatten(1).double().cpu(), dim=1)
    near = torch.zeros(len(val), 0), torch.zeros(len(val), 0, dtype=torch.int64)
    rows, start = max(1, BLOCK // max(1, train[0].numel())), 0
    for block in train.split(rows):
        unit = normalize(block.flatten(1).float().cpu(), dim=1)
        found = faiss.knn(
            queries.float().numpy(), unit.numpy(), min(wanted, len(unit)), metric=faiss.METRIC_INNER_PRODUCT
        )
        cosines, who = (torch.cat(pair, 1) for pair in zip(near, map(torch.from_numpy, found), strict=True))
        who[:, near[1].shape[1] :] += start
        cosines, best = cosines.topk(min(wanted, cosines.shape[1]))
        near, start = (cosines, who.gather(1, best)), start + len(block)
    ordered, few = [], ordered_at_a_time(wanted, train[0].numel())
    for query, candidates in zip(queries.split(few), near[1].split(few), strict=True):
        vectors = normalize(train[candidates].flatten(2).double().cpu(), dim=2)
        cosines = (vectors @ query[:, :, None])[..., 0]
        best = cosines.sort(descending=True, stable=True).indices[:, :k]
        ordered.append(candidates.gather(1, best))
    return torch.cat(ordered)


def ordered_at_a_time(candidates: int, numbers: int) -> int:
    """How many latents of so many numbers have their candidates compared in float64 at a time."""
    return max(1, min(CHUNK, BLOCK // 16 // max(1, candidates * numbers)))


# --- paths from noise to latents (2606.03578) ---------------------------------------------------------------


def path_straightnesses(states: Tensor) -> Tensor:
    """`path_straightness` of each path: states (M + 1, B, T, C) -> (B,)."""
    steps = states.double().diff(dim=0).flatten(2)
    if len(steps) == 1:
        return torch.ones_like(steps[0, :, 0])
    lengths = steps.norm(dim=2)
    products = (steps[:-1] * steps[1:]).sum(2)
    moves = lengths[:-1] * lengths[1:]
    # A path that rests doesn't turn.
    return torch.where(moves > TINY, products / moves.clamp(min=TINY), 1.0).mean(0)


def path_straightness(states: Tensor) -> Tensor:
    """The mean cosine of a path's consecutive steps, over its M - 1 pairs and over paths: () in [-1, 1].

    Args:
        states: the sampler's states x_0, ..., x_M, (M + 1, B, T, C); norms are over (T, C). A single step is
            straight.
    """
    return path_straightnesses(states).mean()


def path_efficiencies(states: Tensor) -> Tensor:
    """`path_efficiency` of each path: states (M + 1, B, T, C) -> (B,)."""
    flat = states.double().flatten(2)
    length = flat.diff(dim=0).norm(dim=2).sum(0)
    return torch.where(length > TINY, (flat[-1] - flat[0]).norm(dim=1) / length.clamp(min=TINY), 1.0)


def path_efficiency(states: Tensor) -> Tensor:
    """The distance between a path's ends over its length, a mean over paths: () in [0, 1].

    Args:
        states: the sampler's states x_0, ..., x_M, (M + 1, B, T, C); norms are over (T, C). A path that rests
            has 1.
    """
    return path_efficiencies(states).mean()


# --- sliced distance of features (MIND: 2605.06797) ---------------------------------------------------------


def sliced_distance(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """MIND: 3 d times the mean squared difference of sorted projections, over K directions: ().

    In expectation over random directions, a shift by delta has 3 |delta|^2.

    Args:
        x: features (n, d).
        y: features (n, d), as many.
        directions: unit rows (K, d).

    Raises:
        ValueError: the sets differ in size.
    """
    return sliced_distances(x, y, directions).mean()


def sliced_distances(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """`sliced_distance` along each direction alone: (K,)."""
    if x.shape != y.shape:
        raise ValueError(f"sets of {tuple(x.shape)} and {tuple(y.shape)} features: take equally many of both")
    x, y = x.double(), y.double()

    def along(block: Tensor) -> Tensor:
        gap = (x @ block.T).sort(0).values - (y @ block.T).sort(0).values
        return gap.square().mean(0)

    rows = max(1, BLOCK // max(1, len(x)) // 4)  # directions whose projections are held at a time
    return 3 * x.shape[1] * torch.cat([along(block) for block in directions.double().split(rows)])
