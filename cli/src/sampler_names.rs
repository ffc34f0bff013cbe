//! Samplers and schedules by the names that other programs gave them.

use engine::samplers::{Method, Schedule, Spacing};

/// The sampler that `text` names: photogram's own name, the A1111 web UI's or diffusers' class, however it is spelled.
pub(crate) fn parse_sampler(text: &str) -> Result<&'static Method, String> {
    let wanted = match spelled(text) {
        ancestral if ancestral == "eulerancestral" => "eulera".to_owned(),
        other => other,
    };
    let found = Method::ALL.iter().find(|method| {
        [method.name, method.a1111_name, method.class_name].iter().any(|name| spelled(name) == wanted)
    });
    let names: Vec<&str> = Method::ALL.iter().map(|method| method.name).collect();
    found.copied().ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// The schedule that `text` names, in any case.
pub(crate) fn parse_schedule(text: &str) -> Result<Schedule, String> {
    let found = Schedule::ALL.iter().find(|schedule| schedule.name() == text.to_lowercase());
    let names: Vec<&str> = Schedule::ALL.iter().map(|schedule| schedule.name()).collect();
    found.copied().ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// The spacing of timesteps that `text` names, in any case.
pub(crate) fn parse_spacing(text: &str) -> Result<Spacing, String> {
    let found = Spacing::ALL.iter().find(|spacing| spacing.name() == text.to_lowercase());
    let names: Vec<&str> = Spacing::ALL.iter().map(|spacing| spacing.name()).collect();
    found.copied().ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// `text` without what spellings differ in: case, separators, and `pp` for `++`.
fn spelled(text: &str) -> String {
    text.to_lowercase().replace([' ', '_', '-'], "").replace("pp", "++")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_finds_its_sampler() {
        for (name, spellings) in [
            ("dpm++2m", &["dpm++2m", "dpmpp_2m", "DPM++ 2M", "dpmpp-2m", "DPMSolverMultistepScheduler"][..]),
            ("euler", &["euler", "Euler", "EulerDiscreteScheduler"]),
            ("euler_a", &["euler_a", "Euler a", "euler-a", "eulera", "euler_ancestral"]),
            ("ddim", &["ddim", "DDIM"]),
            ("pndm", &["pndm", "plms", "PLMS"]),
        ] {
            for spelling in spellings {
                assert_eq!(parse_sampler(spelling).unwrap().name, name, "{spelling}");
            }
        }
    }

    #[test]
    fn another_name_is_answered_with_the_known_ones() {
        for unknown in ["", "dpm++2", "dpm++ 2m sde", "eulers"] {
            assert_eq!(
                parse_sampler(unknown).unwrap_err(),
                "expected one of ddim, euler, euler_a, dpm++2m, pndm"
            );
        }
        assert_eq!(parse_schedule("cosine").unwrap_err(), "expected one of discrete, karras");
        assert_eq!(parse_schedule("KARRAS"), Ok(Schedule::Karras));
        assert_eq!(parse_spacing("last").unwrap_err(), "expected one of leading, trailing, linspace");
        assert_eq!(parse_spacing("Trailing"), Ok(Spacing::Trailing));
    }
}
