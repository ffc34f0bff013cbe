//! Machines without a screen: Mesa's device-select layer asks Wayland which GPU shows the desktop, and Wayland complains on
//! stderr when there is none. The engine takes its own pick, so the layer can be left out; it reads that from the environment
//! alone, which a running program cannot change safely.

/// Starts the program again without the layer, where it would complain. Returns where it would not.
#[cfg(target_os = "linux")]
pub(crate) fn leave_out_device_selection() {
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::{env, process};

    const WITHOUT_LAYER: &str = "NODEVICE_SELECT";
    let has_session = env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| Path::new(&folder).is_dir());
    if has_session || env::var_os(WITHOUT_LAYER).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut command = process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Returns only if the program could not be started: a complaint is then the lesser evil.
    let _ = command.args(arguments).env(WITHOUT_LAYER, "1").exec();
}

/// Other systems have no such layer.
#[cfg(not(target_os = "linux"))]
pub(crate) fn leave_out_device_selection() {}
