//! `photogram devices`: which adapters there are and which one `auto` takes.

use engine::device::{AdapterReport, list_adapters};
use serde_json::{Value, json};

use crate::args::DevicesArgs;
use crate::failure::{Code, Failure, driver_hint, one_line};
use crate::report::{print, print_json};
use crate::tables::{bytes, table};

/// Prints the adapters.
///
/// # Errors    [`Code::Gpu`] if there is none
pub(crate) async fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let adapters = list_adapters().await;
    if args.json {
        print_json(&Value::Array(adapters.iter().map(as_json).collect()))?;
    } else if !adapters.is_empty() {
        let text = described(&adapters);
        print(&text, &text)?;
    }
    if adapters.is_empty() {
        return Err(Failure::new(Code::Gpu, "no adapter found").with_hint(driver_hint()));
    }
    Ok(())
}

fn described(adapters: &[AdapterReport]) -> String {
    let head =
        ["#", "name", "backend", "kind", "binding", "buffer", "workgroup", "f16", "subgroups", "timestamps"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(adapters.iter().map(|adapter| {
        vec![
            adapter.index.to_string(),
            adapter.name.clone(),
            adapter.backend.clone(),
            adapter.kind.to_owned(),
            bytes(adapter.max_binding_bytes),
            bytes(adapter.max_buffer_bytes),
            bytes(adapter.workgroup_bytes.into()),
            yes_or_no(adapter.f16),
            subgroups(adapter),
            yes_or_no(adapter.timestamps),
        ]
    }));
    let mut text = table(&rows);
    text.push('\n');
    for adapter in adapters {
        let matrices = match adapter.cooperative_matrices.as_slice() {
            [] => "no cooperative matrices".to_owned(),
            shapes => format!("cooperative matrices {}", shapes.join(", ")),
        };
        let taken = if adapter.chosen { "auto takes it" } else { "auto passes it over" };
        text.push_str(&format!("{}: {}; {matrices}\n", adapter.index, adapter.driver));
        text.push_str(&format!("   {taken}: {}\n", adapter.reason));
        for note in &adapter.notes {
            text.push_str(&format!("   {}\n", one_line(note)));
        }
    }
    text
}

fn yes_or_no(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn subgroups(adapter: &AdapterReport) -> String {
    match adapter.subgroups {
        None => "no".to_owned(),
        Some((min, max)) if min == max => min.to_string(),
        Some((min, max)) => format!("{min} to {max}"),
    }
}

fn as_json(adapter: &AdapterReport) -> Value {
    json!({
        "index": adapter.index,
        "name": adapter.name,
        "backend": adapter.backend,
        "kind": adapter.kind,
        "driver": adapter.driver,
        "max_binding_bytes": adapter.max_binding_bytes,
        "max_buffer_bytes": adapter.max_buffer_bytes,
        "workgroup_bytes": adapter.workgroup_bytes,
        "f16": adapter.f16,
        "subgroups": adapter.subgroups.map(|(min, max)| json!({ "min": min, "max": max })),
        "cooperative_matrices": adapter.cooperative_matrices,
        "timestamps": adapter.timestamps,
        "auto": adapter.chosen,
        "reason": adapter.reason,
        "notes": adapter.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stands_below_its_adapter_on_one_line() {
        let adapter = AdapterReport {
            index: 0,
            name: "GPU".to_owned(),
            backend: "Vulkan".to_owned(),
            kind: "discrete",
            driver: "driver".to_owned(),
            max_binding_bytes: 1 << 30,
            max_buffer_bytes: 1 << 30,
            workgroup_bytes: 1 << 15,
            f16: true,
            subgroups: Some((32, 32)),
            cooperative_matrices: vec!["16x16x16 F16->F32".to_owned()],
            timestamps: true,
            notes: vec!["matrix units are not used:\nwrong".to_owned()],
            chosen: true,
            reason: "the first".to_owned(),
        };
        let text = described(std::slice::from_ref(&adapter));
        assert!(text.ends_with("the first\n   matrix units are not used: wrong\n"), "{text}");
        assert_eq!(as_json(&adapter)["notes"][0], adapter.notes[0]);
    }
}
