"""Projection of embeddings to the plane."""

import numpy as np

TSNE_POINTS = (10, 2000)


def to_plane(points: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Projects points by t-SNE (van der Maaten & Hinton 2008), or by PCA.

    t-SNE, which starts from PCA, serves 10 to 2,000 points, PCA fewer and more.

    Args:
      points: (N, D) finite numbers.
      seed: seed of t-SNE.

    Returns:
      (N, 2) coordinates, and the name of the method that made them.
    """
    count = len(points)
    centred = points - points.mean(axis=0, keepdims=True) if count else points
    largest = np.abs(centred).max(initial=0.0)
    if largest <= 1e-9 * np.abs(points).max(initial=0.0):  # t-SNE would divide by zero
        return np.zeros((count, 2)), "PCA"
    left, sizes, _ = np.linalg.svd(centred / largest, full_matrices=False)
    components = left * sizes[None]
    fewest, most = TSNE_POINTS
    if not fewest <= count <= most:
        return np.pad(components, ((0, 0), (0, 2)))[:, :2], "PCA"
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = 1e-4 * np.pad(components, ((0, 0), (0, 2)))[:, :2]
    start = (start / components[:, 0].std()).astype(np.float32)
    tsne = TSNE(
        perplexity=min(30, (count - 1) / 3),
        init=start,
        max_iter=500,
        random_state=seed,
        n_jobs=1,
    )
    # Beside a training, several threads would mostly wait for one another.
    with threadpool_limits(1):
        flat = tsne.fit_transform(components[:, :50].astype(np.float32))
    return flat, "t-SNE"
