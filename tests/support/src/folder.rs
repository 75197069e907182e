//! Folders for the files of a test, a benchmark or the demo.

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::library;

/// A folder in the temporary folder of the system. Dropping this value removes it.
pub struct Folder(PathBuf);

impl Folder {
    /// Creates a folder whose name contains `name`.
    pub fn new(name: &str) -> io::Result<Self> {
        temporary(name).map(Self)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A failure is ignored, because the system cleans its temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Creates a folder in the temporary folder of the system. The caller removes it.
pub fn temporary(name: &str) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ngx-rs-listen-{name}-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Creates an empty folder below target/tmp. Its files remain until the next run, so
/// that a developer can inspect them.
pub fn lasting(name: &str) -> PathBuf {
    let folder = library::target().join("tmp").join(name);
    // The folder exists if the test ran before.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder can be made below target/");
    folder
}
