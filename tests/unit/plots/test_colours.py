from __future__ import annotations

import numpy as np
import pytest

from rsembed.core.errors import SpecError
from rsembed.plots.colours import SAMPLE, cosine_similarity, fit_pca_rgb, sample_rows

RNG = np.random.default_rng(0)
VECTORS = (RNG.standard_normal((500, 4)) * [9, 3, 1, 0.1]) @ np.linalg.qr(RNG.standard_normal((40, 40)))[0][:4]
VECTORS = VECTORS.astype(np.float32) + 5


def test_fit_when_four_directions_are_mixed_then_the_largest_three_are_found() -> None:
    pca = fit_pca_rgb(VECTORS, standardise=False)
    assert pca.shares == pytest.approx(np.array([81, 9, 1]) / 91.01, abs=0.02)
    assert pca.components.T @ pca.components == pytest.approx(np.eye(3), abs=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_fit_when_there_are_fewer_vectors_than_numbers_then_it_agrees_with_the_svd(standardise: bool) -> None:
    few = VECTORS[:20].astype(np.float64)
    pca = fit_pca_rgb(few, standardise=standardise)
    centred = (few - few.mean(axis=0)) / (few.std(axis=0) if standardise else 1)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.sum(pca.components.T * vt[:3], axis=1)) == pytest.approx(np.ones(3), abs=1e-4)
    assert pca.shares == pytest.approx((s**2)[:3] / (s**2).sum(), abs=1e-5)


def test_fit_when_vectors_are_turned_around_then_components_point_to_their_largest_weight() -> None:
    for vectors in (VECTORS, -VECTORS):
        components = fit_pca_rgb(vectors).components
        assert (components[np.abs(components).argmax(axis=0), range(3)] > 0).all()


def test_colours_when_percentiles_are_given_then_ends_are_cut_and_the_median_is_half() -> None:
    colours = fit_pca_rgb(VECTORS, percentiles=(10, 90)).colours(VECTORS)
    assert colours.min() == 0
    assert colours.max() == 1
    assert (colours == 0).mean() == pytest.approx(0.1, abs=0.01)
    assert np.median(colours, axis=0) == pytest.approx(np.full(3, 0.5), abs=1e-3)


def test_colours_when_asked_for_in_other_company_then_they_are_the_same() -> None:
    pca = fit_pca_rgb(VECTORS)
    assert pca.colours(VECTORS[7:9]) == pytest.approx(pca.colours(VECTORS)[7:9], abs=1e-6)


def test_colours_when_a_vector_has_a_nan_then_it_alone_has_none() -> None:
    holed = VECTORS.copy()
    holed[3, 5] = np.nan
    colours = fit_pca_rgb(holed).colours(holed)
    assert np.isnan(colours[3]).all()
    assert np.isfinite(np.delete(colours, 3, axis=0)).all()


def test_image_when_a_map_has_holes_then_they_are_clear() -> None:
    tile = VECTORS[:60].T.reshape(40, 6, 10).copy()
    tile[0, 2, 3] = np.inf
    image = fit_pca_rgb(tile).image(tile)
    assert image.shape == (6, 10, 4)
    assert image[2, 3, 3] == 0
    assert image[..., 3].sum() == 59
    assert (image >= 0).all()
    assert (image <= 1).all()


@pytest.mark.parametrize("vectors", [np.ones((5, 8)), np.ones((1, 8)), np.arange(6.0)[:, None]])
def test_fit_when_there_is_little_to_tell_apart_then_the_rest_is_grey(vectors: np.ndarray) -> None:
    colours = fit_pca_rgb(vectors).colours(vectors)
    assert (colours[:, 1:] == 0.5).all()
    assert np.isfinite(colours).all()


@pytest.mark.parametrize("vectors", [np.full((4, 3), np.nan), np.empty((0, 3)), np.zeros(5), np.empty((3, 0))])
def test_fit_when_there_is_no_vector_then_it_says_so(vectors: np.ndarray) -> None:
    with pytest.raises(SpecError, match="vector"):
        fit_pca_rgb(vectors)


def test_fit_when_percentiles_are_no_range_then_it_says_so() -> None:
    with pytest.raises(SpecError, match="rising"):
        fit_pca_rgb(VECTORS, percentiles=(98, 2))


def test_colours_when_vectors_are_of_another_model_then_it_says_so() -> None:
    with pytest.raises(SpecError, match="fitted to 40 numbers"):
        fit_pca_rgb(VECTORS).colours(VECTORS[:, :39])


def test_fit_when_a_dimension_is_nearly_constant_then_it_has_no_weight() -> None:
    padded = np.hstack([VECTORS, np.full((500, 1), 3.0) + 1e-9 * RNG.standard_normal((500, 1))])
    pca = fit_pca_rgb(padded)
    assert pca.weight[-1] == 0
    assert pca.weight[0] > 0


def test_cosine_when_vectors_point_alike_then_length_does_not_matter() -> None:
    found = cosine_similarity(np.array([[2.0, 0], [0, 3], [-1, 0], [1, 1], [0, 0], [np.nan, 1]]), np.array([5.0, 0]))
    assert found[:4] == pytest.approx([1, 0, -1, 2**-0.5])
    assert np.isnan(found[4:]).all()


@pytest.mark.parametrize("to", [np.zeros(2), np.array([np.nan, 1]), np.ones(3)])
def test_cosine_when_the_other_has_no_direction_then_it_says_so(to: np.ndarray) -> None:
    with pytest.raises(SpecError, match=r"similar to|compared with"):
        cosine_similarity(np.ones((4, 2)), to)


def test_sample_rows_when_there_are_more_than_wanted_then_from_first_to_last() -> None:
    rows = sample_rows(100_000, SAMPLE)
    assert len(rows) == SAMPLE
    assert (rows[0], rows[-1]) == (0, 99_999)
    assert (np.diff(rows) > 0).all()
    assert sample_rows(3, SAMPLE).tolist() == [0, 1, 2]
