"""Archives of images that are downloaded by hand: a folder per class, packed or not."""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sparse_ist_tf.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Archive:
    """What an archive is called and holds.

    Args:
        name: of the folder, and with .zip behind it of the packed one.
        label_of: from the names of folders to those of classes.
    """

    name: str
    label_of: Mapping[str, str]

    @classmethod
    def of_classes(cls, name: str, classes: Sequence[str]) -> "Archive":
        """One whose folders have the names of the classes."""
        return cls(name, {label: label for label in classes})

    def opened(self, folder: Path) -> tuple[list[str], Callable[[str], bytes]]:
        """Finds the archive, packed or not.

        Args:
            folder: with NAME.zip, or with NAME/ and a folder per class in it.

        Returns:
            The images' names, "Class/image.jpg" at their end, in the order of the file names, and a
            function that reads one.

        Raises:
            RequestError: if neither is there, if the archive is damaged, or if it holds no images
                or a class that isn't one of its own.
        """
        unpacked, packed = folder / self.name, folder / f"{self.name}.zip"
        if unpacked.is_dir():
            found = [p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*")]
            where = unpacked

            def read(name):
                return (unpacked / name).read_bytes()

        elif packed.is_file():
            try:
                archive = zipfile.ZipFile(packed)
            except zipfile.BadZipFile as error:
                raise RequestError(f"{packed}: damaged ({error}); download it again") from error
            found, read, where = archive.namelist(), archive.read, packed
        else:
            raise RequestError(f"{folder}: holds neither {self.name}.zip nor {self.name}/")
        names = [p for p in map(PurePosixPath, found) if p.suffix.lower() in (".jpg", ".jpeg")]
        names = [p for p in names if "__MACOSX" not in p.parts]
        if not names:
            raise RequestError(f"{where}: holds no JPEG images")
        if unknown := sorted({p.parent.name for p in names} - set(self.label_of)):
            count = len(set(self.label_of.values()))
            raise RequestError(
                f"{where}: {unknown[0]!r} is none of the {count} classes of {self.name}"
            )
        return [str(p) for p in sorted(names, key=lambda p: (p.name, p.parts[-2:]))], read
