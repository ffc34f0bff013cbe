//! Signals and help.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::support::{has_adapter, names, run, succeed, text, workplace};

/// The program, with signals that end it even if this process was started with them ignored, as `nohup` does.
#[cfg(unix)]
fn interruptible() -> std::process::Command {
    let program = env!("CARGO_BIN_EXE_photogram");
    if !cfg!(target_os = "linux") {
        return std::process::Command::new(program);
    }
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", program]);
    command
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_at_once_and_leaves_nothing() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let before = names(folder.path());
    for (signal, milliseconds) in [("-INT", 0), ("-INT", 200), ("-INT", 800), ("-TERM", 400)] {
        let mut child = interruptible()
            .args(["generate", "-p", "x", "-m", "model", "--steps", "900", "-o", "out.png", "-v"])
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        assert!(line.starts_with("adapter: "), "{line}");
        std::thread::sleep(Duration::from_millis(milliseconds));
        let interrupted = Instant::now();
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
        let status = child.wait().expect("it ends");
        assert!(interrupted.elapsed() < Duration::from_secs(1), "{signal} took {:?}", interrupted.elapsed());
        assert_eq!(status.code(), Some(130), "{signal} after {milliseconds} ms");
        assert_eq!(names(folder.path()), before);
    }
}

/// On a terminal that `script` of util-linux makes.
#[cfg(target_os = "linux")]
#[test]
fn an_interruption_clears_the_progress_bar() {
    if !has_adapter() {
        return;
    }
    if std::process::Command::new("script").arg("--version").output().is_err() {
        println!("skipped: no `script`");
        return;
    }
    let folder = workplace();
    let program = env!("CARGO_BIN_EXE_photogram");
    let words = "generate -p x -m model --steps 900 -o out.png";
    let mut child = std::process::Command::new("script")
        .args(["-qec", &format!("exec env --default-signal=HUP,INT,TERM '{program}' {words}"), "/dev/null"])
        .current_dir(folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
        .envs([("TERM", "xterm"), ("SHELL", "/bin/sh")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("script starts");
    let (mut keys, mut screen) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let (mut shown, mut byte) = (Vec::new(), [0]);
    // With the bar of steps.
    while !text_of(&shown).contains("drawing") && screen.read(&mut byte).expect("readable") > 0 {
        shown.extend(byte);
    }
    // Ctrl-C.
    keys.write_all(b"\x03").expect("written");
    screen.read_to_end(&mut shown).expect("readable");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let shown = text_of(&shown);
    let last = shown.rsplit(['\n', '\r']).next().unwrap_or_default();
    let left = last.rsplit("\u{1b}[2K").next().unwrap_or_default();
    assert!(last != left && left.is_empty(), "{last:?} is left");
}

#[cfg(target_os = "linux")]
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As where a disk is slow: the program waits for the pipe's reader, and nobody ever reads.
#[cfg(unix)]
#[test]
fn an_interruption_does_not_wait_for_what_is_written() {
    let folder = workplace();
    let pipe = folder.path().join("out.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let before = names(folder.path());
    let mut child = interruptible()
        .args(["generate", "-p", "x", "-m", "model", "-o", "out.png"])
        .current_dir(folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
        .spawn()
        .expect("the program starts");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(child.try_wait().expect("a state"), None, "it waits for a reader");
    let interrupted = Instant::now();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    let status = loop {
        if let Some(status) = child.try_wait().expect("a state") {
            break status;
        }
        if interrupted.elapsed() > Duration::from_secs(5) {
            child.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(1), "{:?}", interrupted.elapsed());
    assert_eq!(names(folder.path()), before);
}

/// While kernels compile, steps run, pictures decode and files are written: `SIGNALS=100` for as many; 6 otherwise.
#[cfg(unix)]
#[test]
fn an_interruption_at_any_time_is_one() {
    if !has_adapter() {
        return;
    }
    let count: u64 = std::env::var("SIGNALS").ok().and_then(|count| count.parse().ok()).unwrap_or(6);
    let folder = workplace();
    let before = names(folder.path());
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let child = interruptible()
            .args([
                "generate", "-p", "x", "-m", "model", "--steps", "3", "-b", "100000", "-o", "out.png", "-q",
            ])
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
            // Compiling takes its time.
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the program starts");
        // Up to three seconds, all over them; the handler is there after the first moments.
        std::thread::sleep(Duration::from_millis(100 + number * 7919 % 2900));
        let interrupted = Instant::now();
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
        let output = child.wait_with_output().expect("it ends");
        slowest = slowest.max(interrupted.elapsed());
        assert_eq!(output.status.code(), Some(130), "signal {number}: {output:?}");
        assert!(output.stderr.is_empty(), "signal {number}: {output:?}");
        for path in names(folder.path()).difference(&before) {
            let is_picture = path.extension().is_some_and(|extension| extension == "png");
            assert!(is_picture && loaders::read_rgb(path).is_ok(), "signal {number} left {}", path.display());
            std::fs::remove_file(path).expect("removed");
        }
    }
    println!("{count} interruptions, {slowest:?} at most");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// A shell starts what it runs in the background like this. While files are written: what is there of them goes, too.
#[cfg(unix)]
#[test]
fn termination_is_an_interruption_also_where_ctrl_c_is_ignored() {
    if !has_adapter() {
        return;
    }
    let folder = workplace();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).expect("a folder");
    let is_temporary =
        |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
    let is_writing = || names(&pictures).iter().any(is_temporary);
    for number in 0..4 {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "trap '' INT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_photogram")])
            .args(["generate", "-p", "x", "-m", "model", "--steps", "1", "-b", "2000", "-q"])
            .args(["-o", "pictures/out.png"])
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PHOTOGRAM_CACHE", folder.path().join("cache"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the shell starts");
        let id = child.id().to_string();
        let has_picture = || names(&pictures).iter().any(|path| path.extension().is_some_and(|e| e == "png"));
        while !has_picture() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.expect("kill").success());
        std::thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().expect("a child").is_none(), "what a shell has ignored stays so");
        // A shell's own words are fast enough to meet a file that is being written.
        let meets = "until set -- pictures/.photogram-*.tmp && [ -e \"$1\" ]; do kill -0 \"$0\" || exit 1; done; \
                     kill -TERM \"$0\"";
        let met =
            std::process::Command::new("sh").args(["-c", meets, &id]).current_dir(folder.path()).status();
        assert!(met.expect("the shell starts").success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130), "{number}: {output:?}");
        assert!(output.stderr.is_empty(), "{number}: {output:?}");
        assert!(!is_writing(), "{number}: {:?}", names(&pictures));
        std::fs::remove_dir_all(&pictures).and_then(|()| std::fs::create_dir(&pictures)).expect("removed");
    }
}

#[test]
fn help_teaches() {
    for words in [
        &["--help"][..],
        &["generate", "--help"],
        &["devices", "--help"],
        &["inspect", "--help"],
        &["profile", "--help"],
        &["tune", "--help"],
        &["validate", "--help"],
        &["plan", "--help"],
        &["reproduce", "--help"],
        &["compare", "--help"],
    ] {
        let output = succeed(Path::new("."), words);
        let name = words.join(" ").replace([' ', '-'], "_");
        insta::assert_snapshot!(name, text(&output.stdout));
    }
    let alone = run(Path::new("."), &[]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(text(&alone.stderr).contains("Usage: photogram"), "{alone:?}");
}
