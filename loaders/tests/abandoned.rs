//! Writes that are given up: a process of its own, for all of a process's are.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use photogram_loaders::{Error, abandon_writes, write_bytes, write_with};

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn abandoned_writes_leave_what_there_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    for old in [None, Some(b"old")] {
        if let Some(old) = old {
            fs::write(&path, old).unwrap();
        }
        let before = names_in(folder.path());
        let (told, begun) = mpsc::channel();
        let (go_on, waits) = mpsc::channel::<()>();
        let target = path.clone();
        let writer = thread::spawn(move || {
            write_with(&target, |out| {
                out.write_all(&[1; 100_000])?;
                told.send(()).unwrap();
                waits.recv().unwrap();
                Ok(())
            })
        });
        begun.recv().unwrap();
        assert_eq!(names_in(folder.path()).len(), before.len() + 1, "a temporary file");

        let abandoned = abandon_writes();
        assert_eq!(names_in(folder.path()), before, "though the writer is not done");
        go_on.send(()).unwrap();
        let target = path.clone();
        let later = thread::spawn(move || write_bytes(&target, b"new"));
        thread::sleep(std::time::Duration::from_millis(100));
        assert!(!writer.is_finished() && !later.is_finished(), "a process about to end writes no more");
        assert_eq!(names_in(folder.path()), before);

        // In a process that goes on.
        drop(abandoned);
        assert!(matches!(writer.join().unwrap(), Err(Error::Output { .. })));
        later.join().unwrap().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names_in(folder.path()), ["picture.png"]);
        fs::remove_file(&path).unwrap();
    }
}
