"""A model's card in words, from its description alone: what ``describe`` prints and docs/models holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsembed.cli.page import Entries, Items, Page, Section, Table, Words
from rsembed.cli.quantities import band_names, size

Description = Mapping[str, Any]
MARKS = (
    "verified: held by a parity case, or read in the authors' own code; documented: the authors say so; "
    "inferred: nobody says, so the reference system's value is kept"
)


def model_page(about: Description) -> Page:
    """All that the card says."""
    sections = [
        Section("Takes", (_takes(about), Items(tuple(_imagery(about))))),
        Section("Gives", (Words(_gives(about)),)),
        Section(*_variants(about)),
        *([Section("Options", (Words(_HOW), Entries(tuple(_options(about)))))] if about["options"] else []),
        *_recipes(about),
        Section("Licence of the weights", (Words(_licence(about)),)),
        Section("Sources", (Items(tuple(("", "", source) for source in _sources(about))),)),
    ]
    if about["notes"]:
        sections.append(Section("Notes", (Items(tuple(("", "", note) for note in about["notes"])),)))
    also = f" Also called {', '.join(about['aliases'])}." if about["aliases"] else ""
    return Page(f"{about['id']}: {about['title']}", f"{_sentence(about['summary'])}{also}", tuple(sections))


_HOW = "Written `MODEL:option=value,...` on the command line, given as keywords in Python."


def models_table(described: Sequence[Description], *, link: bool = False) -> Table:
    """One row a model. ``link``: the ids lead to their pages."""
    header = ("id", "title", "bands", "input", "numbers", "output", "weights", "licence", "commercial")
    return Table(header, tuple(_row(about, link=link) for about in described))


def models_index(described: Sequence[Description]) -> Page:
    """The page with the table of all models."""
    lead = (
        "Every model, from its card. The pages here are written by `rsembed models --write-docs docs/models`: change "
        "the card, not the page."
    )
    reading = (
        "numbers: length of the pooled vector, smallest to largest variant; weights: size of the file that is "
        "downloaded; commercial: whether the weights may be used commercially."
    )
    return Page("Models", lead, (Section("All models", (models_table(described, link=True), Words(reading))),))


def _row(about: Description, *, link: bool) -> tuple[str, ...]:
    inputs = list(about["inputs"].values())
    name = about["id"]
    return (
        f"[{name}]({name}.md)" if link else name,
        about["title"],
        " or ".join(dict.fromkeys(str(len(given["bands"])) for given in inputs)),
        " or ".join(dict.fromkeys(_extent(given) for given in inputs)),
        span([int(dim) for dim in about["dims"].values()]),
        ", ".join(about["output"]),
        _download(about),
        about["licence"]["name"],
        about["licence"]["commercial"],
    )


def _download(about: Description) -> str:
    if not about["weights"]:
        return "none"
    sizes = [file["size_bytes"] for file in about["weights"].values() if file["size_bytes"]]
    if not sizes:
        return "size unknown"
    least, most = size(min(sizes)), size(max(sizes))
    return least if least == most else f"{least} - {most}"


def span(numbers: Sequence[int]) -> str:
    """``least - most`` of what the variants have."""
    return "" if not numbers else str(min(numbers)) if len(set(numbers)) == 1 else f"{min(numbers)} - {max(numbers)}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


# Input and output -------------------------------------------------------------------------------


def _takes(about: Description) -> Table:
    rows = (
        (modality, band_names(given["bands"]), f"{_extent(given)}, {_side(given)}", given["frames"]["words"])
        for modality, given in about["inputs"].items()
    )
    return Table(("modality", "bands", "input", "frames"), tuple(rows))


def _extent(given: Description) -> str:
    return f"{given['image_size']} px at {given['scale_m']:g} m"


def _side(given: Description) -> str:
    side = f"{given['image_size'] * given['scale_m']:g} m a side"
    return f"{side}; other sizes as they are" if given["any_size"] else side


def _imagery(about: Description) -> Iterator[tuple[str, str, str]]:
    """What is fetched, by recipe; modalities that fetch alike share a line."""
    for recipe, by_modality in about["fetch"].items():
        alike: dict[str, list[str]] = {}
        for modality, fetch in by_modality.items():
            alike.setdefault(_fetch(fetch), []).append(modality)
        for text, modalities in alike.items():
            which = f"{', '.join(modalities)}: " if len(alike) > 1 else ""
            yield "", f"recipe {recipe}", f"{which}{text}"


def _fetch(fetch: Description) -> str:
    product = fetch["product"]
    if product is not None and product["lattice"] is not None:
        holes = "holes masked" if product["holes"] == "masked" else "holes as the zeros that stand there"
        return f"{fetch['collection']}, the product's own pixels, {holes}"
    words = [
        fetch["collection"],
        f"{fetch['composite']} composite",
        {"utm": "UTM grid", "web_mercator": "EPSG:3857 grid", "lonlat": "EPSG:4326 grid"}[fetch["grid"]],
        {"area": "area-weighted where coarser than the source", "nearest": "nearest pixel"}[fetch["resampling"]],
    ]
    if _is_radar(fetch["collection"]):
        words.append(
            {"any": "orbit passes mixed", "most_images": "the orbit pass with more images"}.get(
                fetch["orbit"], f"{str(fetch['orbit']).lower()} passes only"
            )
        )
    else:
        words.append(_clouds(fetch["clouds"]))
    words.append(
        {"median": "dated by the median acquisition", "midpoint": "dated by the window's middle"}[fetch["frame_date"]]
    )
    return ", ".join(words)


def _is_radar(collection: str) -> bool:
    return "S1_GRD" in collection


def _clouds(policy: Description) -> str:
    masked = "clouds masked by SCL where there is one" if policy["mask"] == "scl" else "no pixel masked"
    if policy["scene_pct"] is None:
        return f"{masked}, all scenes"
    relaxed = f" (if none, {policy['relax_pct']:g} %)" if policy["relax_pct"] is not None else ""
    return f"{masked}, scenes of at most {policy['scene_pct']:g} % cloud{relaxed}"


def _gives(about: Description) -> str:
    ways = about["pooled"]
    if len(set(ways.values())) == 1:
        pooled = _POOLED[next(iter(ways.values()))]
    else:
        pooled = ", ".join(f"with recipe {recipe} {_POOLED[way]}" for recipe, way in ways.items())
    grid = "; grid: a map of vectors" if "grid" in about["output"] else ""
    sizes = ", ".join(f"{device} {count}" for device, count in about["batch_size"].items())
    return f"pooled: {span([int(d) for d in about['dims'].values()])} numbers, {pooled}{grid}. Batch size: {sizes}."


_POOLED = {
    "tokens": "the mean (or maximum) over the ground that was asked for",
    "vector": "the network's own vector of its whole input",
}


# Variants and options -----------------------------------------------------------------------------


def _variants(about: Description) -> tuple[str, tuple[Table | Words, ...]]:
    if not about["weights"]:
        return "Weights", (Words("None: nothing is downloaded."),)
    several = len(about["weights"]) > 1
    rows = []
    for variant, file in about["weights"].items():
        row = (
            str(about["dims"][variant]),
            file["file"],
            size(file["size_bytes"]) if file["size_bytes"] else "unknown",
            (file["revision"] or "newest")[:12] if file["repo"] else "-",
            file["url"] or file["repo"] or "not published: a checkpoint of your own",
        )
        rows.append((variant, *row) if several else row)
    header = ("numbers", "file", "size", "revision", "from")
    table = Table(("variant", *header) if several else header, tuple(rows))
    known = {variant or file["file"]: file["sha256"] for variant, file in about["weights"].items() if file["sha256"]}
    sums = [f"{name} {sha256}" for name, sha256 in known.items()]
    default = next((o["default"] for o in about["options"] if o["name"] == about["variant_option"]), None)
    words = f"Option `{about['variant_option']}` chooses; default: {default}." if several and default else ""
    words += f" sha256: {'; '.join(sums)}." if sums else ""
    return ("Variants and weights" if several else "Weights"), (*([Words(words.strip())] if words else []), table)


def _options(about: Description) -> Iterator[tuple[str, tuple[str, ...]]]:
    for option in about["options"]:
        lines = [option["help"]]
        accepts = ", ".join(str(choice) for choice in option["choices"])
        if not accepts and option["minimum"] is not None and option["maximum"] is not None:
            accepts = f"{option['minimum']:g} to {option['maximum']:g}"
        if accepts:
            also = ", ".join(f"{alias} = {choice}" for alias, choice in option["aliases"].items())
            lines.append(f"{accepts}{f' (also {also})' if also else ''}")
        yield f"{option['name']}={option['default']}", tuple(lines)


# Recipes ----------------------------------------------------------------------------------------


def _recipes(about: Description) -> Iterator[Section]:
    """The authors' steps in full, and of any other recipe what stands in the place of the marked ones."""
    recipes: dict[str, list[tuple[str, str]]] = {
        name: [(step["status"], step["text"]) for step in steps] for name, steps in about["recipes"].items()
    }
    first, *others = recipes
    elsewhere = [set(recipes[name]) for name in others]
    own = [("" if all(step in steps for steps in elsewhere) else "*", *step) for step in recipes[first]]
    marked = any(mark for mark, _, _ in own)
    legend = f"{MARKS}{'; *: differs between the recipes' if marked else ''}."
    yield Section(f"Recipe {first} (the default): what its authors do", (Items(tuple(own)), Words(legend)))
    for name in others:
        differing = [("*", *step) for step in recipes[name] if step not in recipes[first]]
        title = f"Recipe {name}: what the reference system does"
        if not differing:
            same = "The same steps." if not marked else "The same steps without the marked ones."
            yield Section(title, (Words(same),))
        else:
            yield Section(title, (Words("In the place of the steps marked *:"), Items(tuple(differing))))


# Licence and sources ------------------------------------------------------------------------------


def _licence(about: Description) -> str:
    licence = about["licence"]
    return f"{licence['name']}. Commercial use: {licence['commercial']}. Attribution: {licence['attribution']}."


def _sources(about: Description) -> Iterator[str]:
    paper = about["paper"]
    if paper.startswith("arXiv:"):
        yield f"{paper} (https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
    elif paper.startswith("doi:"):
        yield f"{paper} (https://doi.org/{paper.removeprefix('doi:')})"
    else:
        yield paper
    yield about["source"]
