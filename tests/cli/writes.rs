//! Disks that are full, readers that have gone, and processes that are killed while they write.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::{TINY, draw, has_adapter, names, photogram, run, succeed, text, workplace};

/// What one unit of `ulimit -f` is.
const BLOCK: u64 = 512;

/// The program in `folder`, where no file may grow beyond `blocks`: as on a full disk, a write fails in its middle.
fn run_on_full_disk(folder: &Path, blocks: u64, words: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let program = env!("CARGO_BIN_EXE_photogram");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", program]).args(words).current_dir(folder);
    command.env("XDG_RUNTIME_DIR", folder).env("PHOTOGRAM_CACHE", folder.join("cache"));
    command.output().expect("a shell")
}

/// The one line that says that `path` could not be written.
fn check_refused(output: &Output, path: &str, what: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{what}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{what}: {stderr}");
    assert!(errors[0].contains(path) && errors[0].contains("cannot write"), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").len()
}

#[test]
fn a_disk_that_is_full_at_any_block_of_a_picture_leaves_none() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let path = folder.path().join("out.png");
    draw(folder.path(), &["-p", "x", "-o", "out.png"]);
    let whole = fs::read(&path).expect("written");
    let blocks = size(&path).div_ceil(BLOCK);
    fs::remove_dir_all(folder.path().join("cache")).expect("removed");
    for old in [None, Some(&b"old"[..])] {
        let words = [&TINY[..], &["-p", "x", "-o", "out.png"]].concat();
        for limit in 0..=blocks {
            let _ = fs::remove_file(&path);
            old.into_iter().for_each(|old| fs::write(&path, old).expect("written"));
            let before = names(folder.path());
            let output = run_on_full_disk(folder.path(), limit, &words);
            if limit < blocks {
                check_refused(&output, "out.png", &format!("{limit} blocks"));
                assert_eq!(fs::read(&path).ok().as_deref(), old, "{limit} blocks");
                assert_eq!(names(folder.path()), before, "{limit} blocks");
            } else {
                assert!(output.status.success(), "{limit} blocks: {output:?}");
                assert!(fs::read(&path).expect("written") == whole, "{limit} blocks");
            }
        }
    }
    println!("full at each of {blocks} blocks, with and without an old file");
}

#[test]
fn a_disk_that_is_full_for_any_other_file_leaves_none() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    fs::create_dir(folder.path().join("dump")).expect("a folder");
    draw(folder.path(), &["-p", "x", "-o", "a.png"]);
    draw(folder.path(), &["-p", "y", "-s", "7", "-o", "b.png"]);
    // Limits are for files alone.
    let generate = |words: &[&'static str]| [&TINY[..], &["-p", "x", "-o", "/dev/null"], words].concat();
    for (file, words) in [
        ("dump/reference.safetensors", generate(&["--dump", "dump"])),
        ("ranges.json", generate(&["--trace-ranges", "ranges.json", "-q"])),
        ("stats.json", generate(&["--stats", "stats.json"])),
        (
            "trace.json",
            vec!["profile", "-m", "model", "-W", "32", "-H", "32", "--repeat", "1", "--trace", "trace.json"],
        ),
        ("difference.png", vec!["compare", "a.png", "b.png", "--difference", "difference.png"]),
        ("again.png", vec!["reproduce", "a.png", "-m", "model", "-o", "again.png"]),
    ] {
        let path = folder.path().join(file);
        succeed(folder.path(), &words);
        let whole = size(&path);
        assert!(whole > 0, "{file}");
        // A trace is a little shorter or longer each time, for it holds seconds.
        let last = (whole - whole / 8 - 1) / BLOCK;
        for limit in [0, last / 2, last] {
            for old in [None, Some(&b"old"[..])] {
                let _ = fs::remove_file(&path);
                old.into_iter().for_each(|old| fs::write(&path, old).expect("written"));
                let before = names(folder.path());
                let output = run_on_full_disk(folder.path(), limit, &words);
                check_refused(&output, file, &format!("{file}, {limit} blocks"));
                assert_eq!(fs::read(&path).ok().as_deref(), old, "{file}, {limit} blocks");
                assert_eq!(names(folder.path()), before, "{file}, {limit} blocks");
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_for_caches_costs_no_picture() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let path = folder.path().join("out.png");
    draw(folder.path(), &["-p", "x", "-o", "out.png"]);
    let whole = fs::read(&path).expect("written");
    let cache = folder.path().join("cache");
    let stored: Vec<PathBuf> = if cache.exists() { names(&cache).into_iter().collect() } else { Vec::new() };
    let Some(stored) = stored.first() else { return println!("skipped: this backend stores no pipelines") };
    let sound = fs::read(stored).expect("written");
    // Limits are for files alone.
    let words = [&TINY[..], &["-p", "x", "-o", "/dev/null"]].concat();
    for old in [None, Some(&b"old"[..])] {
        let _ = fs::remove_file(stored);
        old.into_iter().for_each(|old| fs::write(stored, old).expect("written"));
        let before = names(folder.path());
        let output = run_on_full_disk(folder.path(), 0, &words);
        let stderr = text(&output.stderr);
        assert!(output.status.success() && stderr.contains("/dev/null: 32x32"), "{stderr}");
        assert!(stderr.lines().count() <= 2, "{stderr}");
        assert_eq!(fs::read(stored).ok().as_deref(), old);
        assert_eq!(names(folder.path()), before);
    }
    // The next run stores them after all.
    draw(folder.path(), &["-p", "x", "-o", "out.png"]);
    assert!(fs::read(&path).expect("written") == whole);
    assert_eq!(fs::read(stored).expect("written").len(), sound.len());

    // A folder of caches that cannot be made.
    let words = [&TINY[..], &["-p", "x", "-o", "out.png"]].concat();
    let nowhere = photogram(folder.path(), &words).env("PHOTOGRAM_CACHE", path.join("cache")).output();
    let nowhere = nowhere.expect("the program starts");
    assert!(nowhere.status.success() && fs::read(&path).expect("written") == whole, "{nowhere:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_takes_nothing_is_a_failure_and_one_that_is_closed_is_not() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    draw(folder.path(), &["-p", "x", "-o", "a.png"]);
    for words in [
        &["devices"][..],
        &["devices", "--json"],
        &["inspect", "model"],
        &["plan", "-m", "model"],
        &["plan", "-m", "model", "--json"],
        &["plan", "-m", "truncated"],
        &["compare", "a.png", "a.png", "--json"],
        &["reproduce", "a.png", "-m", "model", "-q"],
        &["validate", "-m", "model", "-W", "32", "-H", "32", "--json", "-q"],
        &["profile", "-m", "model", "-W", "32", "-H", "32", "--repeat", "1", "-q"],
        &["--help"],
        &["generate", "--help"],
        &["--version"],
    ] {
        let usual = run(folder.path(), words);
        let to = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_photogram"));
            command.args(words).current_dir(folder.path()).stdout(stdout).stderr(Stdio::piped());
            command.env("XDG_RUNTIME_DIR", folder.path()).env("PHOTOGRAM_CACHE", folder.path().join("cache"));
            command.spawn().expect("the program starts")
        };
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = to(full.into()).wait_with_output().expect("it ends");
        check_refused(&output, "standard output", &words.join(" "));

        let mut closed = to(Stdio::piped());
        drop(closed.stdout.take());
        let output = closed.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), usual.status.code(), "{words:?}: {output:?}");
        assert_eq!(text(&output.stderr), text(&usual.stderr), "{words:?}");
    }
    // Nobody reads what is said: the picture is drawn.
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut command = Command::new(env!("CARGO_BIN_EXE_photogram"));
    command.args(TINY).args(["-p", "x", "-v", "-o", "out.png"]).current_dir(folder.path()).stderr(full);
    command.env("XDG_RUNTIME_DIR", folder.path()).env("PHOTOGRAM_CACHE", folder.path().join("cache"));
    assert!(command.status().expect("the program starts").success());
    assert!(loaders::read_rgb(folder.path().join("out.png")).is_ok());
}

/// `/dev/full`, or one of our own if this user could replace it, should the program ever try.
#[cfg(target_os = "linux")]
fn full_device(folder: &Path) -> Option<String> {
    if tempfile::tempfile_in("/dev").is_err() {
        return Some("/dev/full".to_owned());
    }
    let made = Command::new("mknod").args(["full", "c", "1", "7"]).current_dir(folder).status();
    let is_device = made.is_ok_and(|made| made.success())
        && File::options().write(true).open(folder.join("full")).is_ok();
    if !is_device {
        println!("skipped: this user may write to /dev");
    }
    is_device.then(|| "full".to_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_that_is_full_is_told_and_stays() {
    use std::os::unix::fs::FileTypeExt;
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let Some(device) = full_device(folder.path()) else { return };
    draw(folder.path(), &["-p", "x", "-o", "a.png"]);
    let before = names(folder.path());
    for words in [
        [&TINY[..], &["-p", "x", "-o", &device]].concat(),
        [&TINY[..], &["-p", "x", "-o", "a.png", "--stats", &device]].concat(),
        [&TINY[..], &["-p", "x", "-o", "a.png", "--trace-ranges", &device]].concat(),
        vec!["compare", "a.png", "a.png", "--difference", &device],
    ] {
        check_refused(&run(folder.path(), &words), &device, &words.join(" "));
        assert_eq!(names(folder.path()), before);
        let kind = fs::metadata(folder.path().join(&device)).expect("still there").file_type();
        assert!(kind.is_char_device());
    }
}

/// Kills a child after `moment`, or, if there is none, once a name or a size in `folder` changes.
fn kill(mut child: Child, folder: &Path, moment: Option<Duration>) {
    match moment {
        Some(moment) => std::thread::sleep(moment),
        None => {
            let sizes = || -> Vec<(PathBuf, u64)> {
                let found = folder.read_dir().expect("a folder").flatten();
                let sizes = found.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())));
                let mut sizes: Vec<_> = sizes.collect();
                sizes.sort();
                sizes
            };
            let before = sizes();
            // Whether a file can be written is tried at the start.
            std::thread::sleep(Duration::from_millis(150));
            while sizes() == before && child.try_wait().expect("a child").is_none() {}
        }
    }
    let _ = child.kill();
    child.wait().expect("it ends");
}

/// `KILLS=100` for as many; 8 otherwise. Every second one while a file is written.
#[test]
fn a_process_that_is_killed_leaves_whole_files_and_no_litter_for_ever() {
    if !has_adapter() {
        return;
    }
    let count: u64 = std::env::var("KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    let folder = workplace();
    let (pictures, cache) = (folder.path().join("pictures"), folder.path().join("cache"));
    fs::create_dir(&pictures).expect("a folder");
    let path = pictures.join("out.png");
    let words = |seed: &'static str| {
        [&["generate", "-p", "x", "--steps", "1", "-q", "-o", "pictures/out.png", "-s"][..], &[seed]].concat()
    };
    succeed(folder.path(), &words("1"));
    let old = fs::read(&path).expect("written");
    succeed(folder.path(), &words("2"));
    let new = fs::read(&path).expect("written");
    let is_temporary = |path: &Path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with(".photogram-") && name.ends_with(".tmp")
    };
    let (mut none, mut olds, mut news, mut litter) = (0, 0, 0, 0);
    for number in 0..count {
        let _ = fs::remove_file(&path);
        let had_old = number % 4 < 2;
        if had_old {
            fs::write(&path, &old).expect("written");
        }
        if number % 3 == 0 {
            let _ = fs::remove_dir_all(&cache);
        }
        let known = names(&pictures);
        let child = Command::new(env!("CARGO_BIN_EXE_photogram"))
            .args(words("2"))
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PHOTOGRAM_CACHE", &cache)
            .spawn()
            .expect("the program starts");
        let moment = (number % 2 == 0).then(|| Duration::from_millis(number * 7919 % 900));
        kill(child, &pictures, moment);
        match fs::read(&path) {
            Err(_) => none += 1,
            Ok(found) if found == old => olds += 1,
            Ok(found) if found == new => news += 1,
            Ok(found) => {
                panic!("kill {number} left {} bytes, of {} or {}", found.len(), old.len(), new.len())
            }
        }
        assert!(!had_old || path.exists(), "kill {number} took the old picture away");
        for left in names(&pictures).difference(&known).filter(|left| **left != path) {
            assert!(is_temporary(left), "kill {number} left {}", left.display());
            litter += 1;
        }
    }
    println!(
        "{count} kills: {none} times no picture, {olds} times the old one, {news} times the new one; {litter} temporary files"
    );

    // They stay for a day, for somebody may still write to them, and harm nobody.
    let temporary =
        || -> Vec<PathBuf> { names(folder.path()).into_iter().filter(|path| is_temporary(path)).collect() };
    fs::write(pictures.join(".photogram-killed.tmp"), &new[..9]).expect("written");
    if cache.exists() {
        fs::remove_dir_all(&cache).expect("removed");
    }
    let fresh = temporary();
    succeed(folder.path(), &words("2"));
    assert!(fs::read(&path).expect("written") == new);
    assert_eq!(temporary(), fresh);
    for path in fresh {
        let file = File::options().write(true).open(path).expect("a file");
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60)).expect("a time");
    }
    succeed(folder.path(), &words("2"));
    assert_eq!(temporary(), Vec::<PathBuf>::new());
}
