//! Folders for files of a test, of a benchmark or of the demo.

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::library;

/// A folder in the temporary folder, removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a folder of which `name` is a part of the name.
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
        // It is only temporary.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a folder in the temporary folder, which the caller removes.
pub fn temporary(name: &str) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ngx-rs-listen-{name}-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Makes a folder below target/tmp, or empties it: its files stay for a look at
/// them until the next run.
pub fn lasting(name: &str) -> PathBuf {
    let folder = library::target().join("tmp").join(name);
    // It is there if the test ran before.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder can be made below target/");
    folder
}
