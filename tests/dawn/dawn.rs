//! Dawn in a child process, `run.mjs`: a second WGSL compiler, Tint, and a second WebGPU, to hold our kernels against.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use engine::validate::UNWRITTEN;
use kernels::{Dispatch, HostTensor, Operand, Shader, Subgroups, TALLY_BYTES, Target, TensorType, Variant};
use serde_json::{Value, json};

/// WGSL as the standard has it.
const TARGET: Target = Target { immediates: false, enable_subgroups: true };

pub(crate) struct Dawn {
    /// The adapter's name.
    pub(crate) adapter: String,
    /// The sizes of its subgroups, if it has them.
    pub(crate) subgroups: Option<Subgroups>,
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// What was compiled: its number, or what Dawn had against it.
    shaders: HashMap<Shader, Result<usize, String>>,
    /// How many operands lie on the device.
    operands: usize,
}

impl Dawn {
    /// `node` with the script that `DAWN` names, or `None` with a line printed when nothing is named.
    pub(crate) fn start() -> Option<Dawn> {
        let Some(script) = std::env::var_os("DAWN") else {
            println!("skipped: DAWN names no script (.ci/run dawn does)");
            return None;
        };
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("DAWN is set, which needs node");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (shaders, operands) = (HashMap::new(), 0);
        let mut dawn = Dawn { adapter: String::new(), subgroups: None, child, to, from, shaders, operands };
        let (hello, _) = dawn.receive().expect("Dawn opens an adapter; it says above why not");
        dawn.adapter = hello["adapter"].as_str().unwrap_or_default().to_owned();
        let size = |i: usize| hello["subgroups"][i].as_u64().and_then(|size| u32::try_from(size).ok());
        dawn.subgroups = size(0).zip(size(1)).map(|(min, max)| Subgroups { min, max });
        Some(dawn)
    }

    /// Compiles a dispatch's shader and makes a pipeline of it, under WebGPU's default limits.
    ///
    /// # Errors
    /// What Tint or Dawn have against it.
    pub(crate) fn compile(&mut self, dispatch: &Dispatch) -> Result<usize, String> {
        if let Some(known) = self.shaders.get(&dispatch.shader) {
            return known.clone();
        }
        let binds: Vec<(u32, bool)> = dispatch.binds.iter().map(|bind| (bind.binding, bind.write)).collect();
        let wgsl = dispatch.shader.wgsl(TARGET);
        let reply = self.ask(&json!({ "compile": { "wgsl": wgsl, "binds": binds } }), &[]);
        let made = reply.map(|_| self.shaders.len());
        self.shaders.insert(dispatch.shader.clone(), made.clone());
        made
    }

    /// Puts operands on the device, in the place of those before them.
    pub(crate) fn upload(&mut self, operands: &[HostTensor]) -> Result<(), String> {
        let bytes: Vec<Vec<u8>> = operands.iter().map(HostTensor::to_bytes).collect();
        let sizes: Vec<usize> = bytes.iter().map(Vec::len).collect();
        let message = json!({ "upload": { "sizes": sizes }, "payload": sizes.iter().sum::<usize>() });
        self.operands = operands.len();
        self.ask(&message, &bytes.concat()).map(drop)
    }

    /// The bytes of the result of `variant` on the operands that were uploaded.
    ///
    /// # Errors
    /// What Tint or Dawn have against it.
    pub(crate) fn run(
        &mut self,
        variant: &Variant,
        inputs: &[TensorType],
        result: &TensorType,
    ) -> Result<Vec<u8>, String> {
        assert_eq!(inputs.len(), self.operands, "operands of {}", variant.name);
        let mut dispatches = Vec::new();
        for dispatch in &variant.dispatches {
            let shader = self.compile(dispatch)?;
            let binds = dispatch.binds.iter().map(|bind| {
                let (buffer, bytes) = match bind.operand {
                    Operand::Input(i) => (i, inputs[i].bytes()),
                    Operand::Output => (inputs.len(), result.bytes()),
                    Operand::Scratch(i) => (inputs.len() + 1 + i, variant.scratch[i].bytes()),
                    Operand::Tally => (inputs.len() + 1 + variant.scratch.len(), TALLY_BYTES),
                };
                let (offset, size) = bind.window.unwrap_or((0, bytes));
                json!([bind.binding, buffer, offset, size])
            });
            let binds: Vec<Value> = binds.collect();
            let Dispatch { params, grid, .. } = dispatch;
            dispatches.push(json!({ "shader": shader, "binds": binds, "params": params, "grid": grid }));
        }
        let scratch: Vec<u64> = variant.scratch.iter().map(TensorType::bytes).chain([TALLY_BYTES]).collect();
        let result = result.bytes();
        let message = json!({
            "run": { "result": result, "unwritten": UNWRITTEN, "scratch": scratch, "dispatches": dispatches }
        });
        self.ask(&message, &[])
    }

    /// Sends a message and gives the bytes of the answer, or the reason why there are none.
    fn ask(&mut self, message: &Value, payload: &[u8]) -> Result<Vec<u8>, String> {
        let text = message.to_string();
        let length = u32::try_from(text.len()).expect("a message is short");
        let sent: io::Result<()> = [&length.to_le_bytes(), text.as_bytes(), payload]
            .iter()
            .try_for_each(|part| self.to.write_all(part))
            .and_then(|()| self.to.flush());
        let answer = sent.and_then(|()| self.receive());
        let (reply, bytes) = answer.unwrap_or_else(|_| panic!("Dawn is gone: {:?}", self.child.wait()));
        match reply["refused"].as_str() {
            Some(refused) => Err(refused.to_owned()),
            None => Ok(bytes),
        }
    }

    fn receive(&mut self) -> io::Result<(Value, Vec<u8>)> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        self.from.read_exact(&mut text)?;
        let reply: Value = serde_json::from_slice(&text)?;
        let payload = reply["payload"].as_u64().and_then(|bytes| usize::try_from(bytes).ok());
        let mut bytes = vec![0; payload.unwrap_or(0)];
        self.from.read_exact(&mut bytes)?;
        Ok((reply, bytes))
    }
}

impl Drop for Dawn {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
