//! Files that appear under their names only when they are whole. It deliberately knows nothing of what is in them, and
//! makes no set of files appear together.

use std::{fs, io, path::Path};

use tempfile::NamedTempFile;

/// A hidden file `{prefix}*.tmp` that removes itself unless it is given a name. It gets the rights any new file gets,
/// not those of a secret.
pub(crate) fn temporary(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// How the names of temporary files end.
pub(crate) const SUFFIX: &str = ".tmp";

/// Makes renames last through a loss of power. Windows has no such call, and needs none.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
}
