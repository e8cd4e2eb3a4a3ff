"""Open whatever holds the places of a run: Parquet, CSV, GeoJSON, GeoPackage, frames, lists."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyproj
from pyarrow import parquet

from rsembed.core.errors import SpecError
from rsembed.pipelines.rows.formats_csv import csv_source
from rsembed.pipelines.rows.formats_memory import arrow_source, frame_source, is_data_frame, place_source
from rsembed.pipelines.rows.source import BATCH_ROWS, TableSource, reading, source_crs

_PARQUET = (".parquet", ".geoparquet", ".pq")
_CSV = (".csv", ".tsv")
_JSON = (".geojson", ".json")
_OGR = (*_JSON, ".gpkg")
KNOWN_EXTENSIONS = (*_PARQUET, *_CSV, *_OGR)

_WKB_EXTENSION = "geoarrow.wkb"


def open_table(source: object, *, layer: str | None = None, id_column: str | None = None) -> TableSource:
    """A table of places to read from.

    ``source``: path of a Parquet/GeoParquet file or of a folder of them, a CSV, GeoJSON or
    GeoPackage file; a pandas or geopandas frame; a pyarrow Table; a list of ``(lon, lat)``
    or of PointBuffer/BBox. ``layer`` picks a GeoPackage's layer. ``id_column`` is kept as
    text where the format has no types (CSV). Raises SpecError naming the input.
    """
    if layer is not None and not (isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() == ".gpkg"):
        raise SpecError(f"layer={layer!r} was given, but only a GeoPackage has layers")
    if isinstance(source, TableSource):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _file_source(Path(source), layer, id_column)
    if is_data_frame(source):
        return frame_source(source)
    if isinstance(source, pa.Table):
        return arrow_source(source, crs=_crs_of_fields(source.schema), geometry=_wkb_field(source.schema))
    if isinstance(source, Sequence):
        return place_source(source)
    raise SpecError(
        f"places must be a file ({', '.join(KNOWN_EXTENSIONS)}), a folder of Parquet files, a data frame, a pyarrow "
        f"Table or a list of (lon, lat), PointBuffer or BBox; got {type(source).__name__}"
    )


def _file_source(path: Path, layer: str | None, id_column: str | None) -> TableSource:
    if not path.exists():
        raise SpecError(f"there is no file or folder {str(path)!r}")
    if path.is_dir():
        return _parquet_source(path)
    opener: Callable[[], TableSource] | None = {
        **dict.fromkeys(_PARQUET, lambda: _parquet_source(path)),
        **dict.fromkeys(_CSV, lambda: csv_source(path, id_column=id_column)),
        **dict.fromkeys(_OGR, lambda: _ogr_source(path, layer)),
    }.get(path.suffix.lower())
    if opener is None:
        raise SpecError(f"{path.name}: unknown extension {path.suffix!r}; known are {', '.join(KNOWN_EXTENSIONS)}")
    return opener()


# -- Parquet ---------------------------------------------------------------------------


def _parquet_source(path: Path) -> TableSource:
    files = _parquet_files(path)
    n_rows = 0
    schema: pa.Schema | None = None
    for file in files:
        with reading(file.name), parquet.ParquetFile(file) as opened:
            n_rows += opened.metadata.num_rows
            mine = opened.schema_arrow
        if schema is None:
            schema = mine
        elif set(mine.names) != set(schema.names):
            odd = ", ".join(sorted(set(mine.names) ^ set(schema.names)))
            raise SpecError(f"{file.name} and {files[0].name} have different columns ({odd}); give them the same ones")
    assert schema is not None  # _parquet_files names at least one
    geometry, crs, hidden = _geo_metadata(path.name, schema)
    final: pa.Schema = schema

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        wanted = pa.schema([final.field(name) for name in columns])
        for file in files:
            # With pre_buffer, its default, pyarrow would hold these columns of the whole file.
            with reading(file.name), parquet.ParquetFile(file, pre_buffer=False) as opened:
                for batch in opened.iter_batches(BATCH_ROWS, columns=list(columns)):
                    yield batch.select(list(columns)).cast(wanted) if len(files) > 1 else batch

    return TableSource(path.name, final, read, n_rows, geometry, crs, hidden=hidden)


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in _PARQUET
        and not any(part.startswith(("_", ".")) for part in file.relative_to(path).parts)
    )
    if not files:
        raise SpecError(f"the folder {str(path)!r} holds no Parquet file ({', '.join(_PARQUET)})")
    return files


def _geo_metadata(name: str, schema: pa.Schema) -> tuple[str | None, pyproj.CRS | None, frozenset[str]]:
    """Geometry column, CRS and covering columns by the GeoParquet metadata, else by the field's own."""
    raw = (schema.metadata or {}).get(b"geo")
    if raw is None:
        return _wkb_field(schema), _crs_of_fields(schema), frozenset()
    try:
        geo = json.loads(raw)
        geometry: str = geo["primary_column"]
        column = geo["columns"][geometry]
        encoding = column["encoding"]
        covering = frozenset(str(place[0]) for box in column.get("covering", {}).values() for place in box.values())
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise SpecError(f"{name}: the GeoParquet metadata is damaged ({exc!r}); write the file again") from exc
    if encoding != "WKB":
        raise SpecError(f"{name}: geometry encoding {encoding!r} is not read; write the file with encoding WKB")
    if geometry not in schema.names:
        raise SpecError(f"{name}: the GeoParquet metadata names a geometry column {geometry!r} that is not there")
    return geometry, source_crs(name, column.get("crs")), covering


def _wkb_field(schema: pa.Schema) -> str | None:
    for field in schema:
        if _extension_of(field)[0] == _WKB_EXTENSION:
            return str(field.name)
    return None


def _crs_of_fields(schema: pa.Schema) -> pyproj.CRS | None:
    for field in schema:
        kind, metadata = _extension_of(field)
        if kind == _WKB_EXTENSION and metadata:
            try:
                crs = json.loads(metadata).get("crs")
            except (ValueError, AttributeError) as exc:
                raise SpecError(f"column {field.name!r}: its geoarrow metadata is not JSON") from exc
            return source_crs(f"column {field.name!r}", crs)
    return None


def _extension_of(field: pa.Field) -> tuple[str | None, bytes]:
    """Extension name and metadata, whether the extension type is registered with pyarrow or not."""
    if isinstance(field.type, pa.BaseExtensionType):
        # Arrow's own extension types, such as JSON text, do not tell theirs.
        tell = getattr(field.type, "__arrow_ext_serialize__", bytes)
        return field.type.extension_name, tell()
    metadata = field.metadata or {}
    name = metadata.get(b"ARROW:extension:name")
    return (None if name is None else name.decode()), metadata.get(b"ARROW:extension:metadata", b"")


# -- GeoJSON, GeoPackage -----------------------------------------------------------------


def _ogr_source(path: Path, layer: str | None) -> TableSource:
    try:
        import pyogrio
        import pyogrio.errors
    except ImportError as exc:
        raise SpecError(f"reading {path.name} needs pyogrio: pip install 'rsembed[formats]'") from exc

    errors = (
        pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError,
        pyogrio.errors.FieldError, pyogrio.errors.GeometryError, pyogrio.errors.CRSError,
    )  # fmt: skip
    with reading(path.name, *errors):
        chosen = _layer(path.name, [str(row[0]) for row in pyogrio.list_layers(path)], layer)
    # A feature's own number is not among its fields, yet in GeoJSON it is the id.
    numbered = path.suffix.lower() in _JSON

    def open_batches(columns: Sequence[str] | None) -> Iterator[pa.Schema | pa.RecordBatch]:
        with (
            reading(path.name, *errors),
            pyogrio.raw.open_arrow(
                path, layer=chosen, columns=columns, return_fids=numbered, use_pyarrow=True, batch_size=BATCH_ROWS
            ) as (_, reader),
        ):
            yield reader.schema
            yield from reader

    with reading(path.name, *errors):
        info = pyogrio.read_info(path, layer=chosen)
    schema = next(open_batches(None))
    geometry, fid = _wkb_field(schema), (info["fid_column"] or "OGC_FID") if numbered else None

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        batches = open_batches([name for name in columns if name not in (geometry, fid)])
        next(batches)
        yield from batches

    return TableSource(
        path.name,
        schema,
        read,
        info["features"] if info["features"] >= 0 else None,
        geometry=geometry,
        crs=source_crs(path.name, info["crs"]),
        fallback_id=fid if fid in schema.names else None,
        hidden=frozenset(name for name in schema.names if name == fid),
    )


def _layer(name: str, layers: list[str], layer: str | None) -> str | None:
    if layer is None and len(layers) > 1:
        raise SpecError(f"{name} has {len(layers)} layers; name one of {', '.join(layers)}")
    if layer is not None and layer not in layers:
        raise SpecError(f"{name} has no layer {layer!r}; it has {', '.join(layers)}")
    return layer
