//! Samplers against diffusers' schedulers, driven by a model that is a formula.
//!
//! The fixtures are `reference/samplers.py`'s: each case holds what diffusers computes with its
//! tables in f32 (`stock`) and with its source in f64 (`latents`).

use engine::samplers::{Combination, Method, Operand, Request, SamplerError, Schedule, Trajectory};
use serde_json::{Map, Value, json};

/// Relative to the largest element of the trajectory so far.
const F64_TOLERANCE: f64 = 1e-12;
/// The same against f32 tables, whose `1 - alphas_cumprod` moves the lowest sigma by 4e-5 of itself.
const STOCK_TOLERANCE: f64 = 2e-5;
/// f64 tables move a timestep that is interpolated between sigmas.
const TIMESTEP_TOLERANCE: f64 = 1e-9;

type Latent = [f64; 3];

const INITIAL_LATENT: Latent = [0.75, -0.5, 0.25];
const INITIAL_NOISE: Latent = [-1.25, 0.5, 2.0];

struct Case {
    label: String,
    config: Map<String, Value>,
    request: Request,
    timesteps: Vec<f64>,
    steps: Vec<usize>,
    latents: Vec<Latent>,
    stock: Option<Vec<Latent>>,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn latents(value: &Value) -> Vec<Latent> {
    value.as_array().unwrap().iter().map(|latent| numbers(latent).try_into().unwrap()).collect()
}

fn cases(method: &str) -> Vec<Case> {
    let path = format!("{}/fixtures/samplers/{method}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let listed: Vec<Value> = serde_json::from_str(&text).unwrap();
    let case = |value: &Value| {
        let request = &value["request"];
        let schedule = request["schedule"].as_str();
        Case {
            label: format!("{method} {request} {}", value["config"]),
            config: value["config"].as_object().unwrap().clone(),
            request: Request {
                schedule: schedule
                    .map(|name| *Schedule::ALL.iter().find(|schedule| schedule.name() == name).unwrap()),
                strength: request["strength"].as_f64(),
                ..Request::whole(usize::try_from(request["steps"].as_u64().unwrap()).unwrap())
            },
            timesteps: numbers(&value["timesteps"]),
            steps: numbers(&value["steps"]).iter().map(|&step| step as usize).collect(),
            latents: latents(&value["latents"]),
            stock: value["stock"].is_array().then(|| latents(&value["stock"])),
        }
    };
    listed.iter().map(case).collect()
}

fn model_output(step: usize, x: Latent, timestep: f64) -> Latent {
    std::array::from_fn(|j| ((7 * step + 3 * j) % 11) as f64 / 5.0 - 1.0 + 0.25 * x[j] + timestep / 2000.0)
}

fn step_noise(step: usize) -> Latent {
    std::array::from_fn(|j| (((5 * step + 2 * j) % 7) as f64 - 3.0) / 2.0)
}

/// What a device does with a trajectory: the first latent and those after each step.
fn follow(trajectory: &Trajectory) -> Vec<Latent> {
    let start = trajectory.start;
    let mut x: Latent =
        std::array::from_fn(|j| start.latent * INITIAL_LATENT[j] + start.noise * INITIAL_NOISE[j]);
    let mut slots: Vec<Option<Latent>> = vec![None; trajectory.n_slots];
    let mut latents = vec![x];
    for (i, step) in trajectory.steps.iter().enumerate() {
        let output = model_output(i, x.map(|element| element * step.input_scale), step.timestep.0);
        let noise = step.draws_noise.then(|| step_noise(i));
        let combine = |combination: &Combination, slots: &[Option<Latent>]| -> Latent {
            assert!(combination.terms.len() <= Combination::MAX_TERMS);
            let mut sum = [0.0; 3];
            for term in &combination.terms {
                let operand = match term.operand {
                    Operand::X => x,
                    Operand::Output => output,
                    Operand::Slot(slot) => slots[slot].expect("a slot is stored before it is read"),
                    Operand::Noise => noise.expect("noise is drawn where it is read"),
                };
                (0..3).for_each(|j| sum[j] += term.coefficient * operand[j]);
            }
            combination.clamp.map_or(sum, |limit| sum.map(|element| element.clamp(-limit, limit)))
        };
        for store in &step.store {
            slots[store.slot] = Some(combine(&store.value, &slots));
        }
        x = combine(&step.next, &slots);
        latents.push(x);
    }
    latents
}

/// The largest difference, relative to the largest element up to there.
fn deviation(ours: &[Latent], case: &Case, theirs: &[Latent]) -> f64 {
    let magnitude = |latent: &Latent| latent.iter().fold(0.0, |max: f64, element| max.max(element.abs()));
    let mut scale = 0.0_f64;
    let mut worst = 0.0_f64;
    let mut recorded = case.steps.iter().zip(theirs).peekable();
    for (step, latent) in ours.iter().enumerate() {
        scale = scale.max(magnitude(latent));
        if let Some((_, expected)) = recorded.next_if(|(recorded_step, _)| **recorded_step == step) {
            let difference: Latent = std::array::from_fn(|j| latent[j] - expected[j]);
            worst = worst.max(magnitude(&difference) / scale);
        }
    }
    assert!(recorded.next().is_none(), "{}: a step is missing", case.label);
    worst
}

fn keys(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn plan(method: &str, config: &Map<String, Value>, request: &Request) -> Result<Trajectory, SamplerError> {
    Method::from_name(method)?.plan("scheduler_config.json", config, request)
}

fn agrees_with_timesteps(trajectory: &Trajectory, case: &Case) -> bool {
    let pairs = trajectory.steps.iter().zip(&case.timesteps);
    trajectory.steps.len() == case.timesteps.len()
        && pairs.map(|(step, theirs)| (step.timestep.0 - theirs).abs()).all(|d| d <= TIMESTEP_TOLERANCE)
}

fn check_against_diffusers(method: &str) {
    let cases = cases(method);
    assert!(cases.len() >= 20);
    for case in &cases {
        let trajectory = plan(method, &case.config, &case.request).unwrap();
        assert!(agrees_with_timesteps(&trajectory, case), "{}: {:?}", case.label, trajectory.steps);
        let ours = follow(&trajectory);
        let f64_deviation = deviation(&ours, case, &case.latents);
        assert!(f64_deviation <= F64_TOLERANCE, "{}: {f64_deviation:e}", case.label);
        if let Some(stock) = &case.stock {
            let stock_deviation = deviation(&ours, case, stock);
            assert!(stock_deviation <= STOCK_TOLERANCE, "{}: {stock_deviation:e}", case.label);
        }
    }
}

#[test]
fn ddim_follows_diffusers() {
    check_against_diffusers("ddim");
}

#[test]
fn euler_follows_diffusers() {
    check_against_diffusers("euler");
}

#[test]
fn euler_a_follows_diffusers() {
    check_against_diffusers("euler_a");
}

#[test]
fn dpmpp_2m_follows_diffusers() {
    check_against_diffusers("dpm++2m");
}

#[test]
fn pndm_follows_diffusers() {
    check_against_diffusers("pndm");
}

/// A change of 1e-6 in any coefficient, or of one in a timestep, is seen.
#[test]
fn a_nudge_of_any_coefficient_is_rejected() {
    for method in Method::ALL {
        for case in cases(method.name) {
            let is_rejected = |nudge: &dyn Fn(&mut Trajectory)| {
                let mut trajectory = plan(method.name, &case.config, &case.request).unwrap();
                nudge(&mut trajectory);
                deviation(&follow(&trajectory), &case, &case.latents) > F64_TOLERANCE
            };
            assert!(!is_rejected(&|_| ()), "{}", case.label);
            let sound = plan(method.name, &case.config, &case.request).unwrap();
            // A recorded latent must follow soon enough to show it.
            if sound.steps.len() > 6 || case.config.contains_key("rescale_betas_zero_snr") {
                continue;
            }
            assert!(is_rejected(&|trajectory| trajectory.start.noise += 1e-6), "{}", case.label);
            for i in 0..sound.steps.len() {
                let step = &sound.steps[i];
                let is_of_this_step = |operand| {
                    operand == Operand::Output
                        || step.store.iter().any(|store| operand == Operand::Slot(store.slot))
                };
                // A step to the noise level it is at does not read the model's output.
                let mut terms = step.next.terms.iter();
                if terms.any(|term| is_of_this_step(term.operand) && term.coefficient.abs() > 1e-3) {
                    let nudge = |trajectory: &mut Trajectory| trajectory.steps[i].input_scale += 1e-6;
                    assert!(is_rejected(&nudge), "{}: step {i}", case.label);
                    let nudge = |trajectory: &mut Trajectory| trajectory.steps[i].timestep.0 += 1.0;
                    assert!(is_rejected(&nudge), "{}: step {i}", case.label);
                }
                for term in 0..sound.steps[i].next.terms.len() {
                    let nudge = |trajectory: &mut Trajectory| {
                        trajectory.steps[i].next.terms[term].coefficient += 1e-6;
                    };
                    assert!(is_rejected(&nudge), "{}: step {i}, term {term}", case.label);
                }
            }
        }
    }
}

/// The mistakes that samplers are known for.
#[test]
fn classic_mistakes_are_rejected() {
    let sd = json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "skip_prk_steps": true, "clip_sample": false, "steps_offset": 1});
    let request = Request::whole(4);
    let differs = |method: &str, key: &str, value: Value| {
        let mut changed = keys(sd.clone());
        changed.insert(key.to_owned(), value);
        let latents = |config: &Map<String, Value>| follow(&plan(method, config, &request).unwrap());
        latents(&keys(sd.clone())) != latents(&changed)
    };
    assert!(differs("ddim", "steps_offset", json!(0)));
    assert!(differs("ddim", "set_alpha_to_one", json!(false)));
    assert!(differs("ddim", "clip_sample", json!(true)));
    assert!(differs("ddim", "rescale_betas_zero_snr", json!(true)));
    assert!(differs("euler", "final_sigmas_type", json!("sigma_min")));
    assert!(differs("euler", "interpolation_type", json!("log_linear")));
    assert!(differs("euler", "use_karras_sigmas", json!(true)));
    assert!(!differs("euler_a", "use_karras_sigmas", json!(true)));
    assert!(differs("euler_a", "timestep_spacing", json!("leading")));
    assert!(differs("dpm++2m", "solver_type", json!("heun")));
    assert!(differs("dpm++2m", "solver_order", json!(1)));
    assert!(differs("dpm++2m", "lambda_min_clipped", json!(-1.5)));
    assert!(differs("pndm", "skip_prk_steps", json!(false)));

    for method in ["dpm++2m", "pndm"] {
        let case = cases(method).into_iter().find(|case| case.request.steps == 5).unwrap();
        let mut trajectory = plan(method, &case.config, &case.request).unwrap();
        for step in &mut trajectory.steps {
            let mut history: Vec<&mut Operand> = Vec::new();
            for term in &mut step.next.terms {
                if matches!(term.operand, Operand::Slot(_)) {
                    history.push(&mut term.operand);
                }
            }
            if let [newest, .., oldest] = &mut history[..] {
                std::mem::swap(*newest, *oldest);
            }
        }
        assert!(deviation(&follow(&trajectory), &case, &case.latents) > STOCK_TOLERANCE, "{method}");
    }
}

/// Two models that share a run do, each in turn, what one would do alone.
#[test]
fn a_run_that_is_handed_over_visits_every_level_once() {
    let config = keys(json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "skip_prk_steps": true, "clip_sample": false, "steps_offset": 1}));
    for (method, part, n_first) in
        [("ddim", 0.8, 8), ("euler", 0.8, 8), ("euler_a", 0.5, 5), ("dpm++2m", 0.75, 8), ("pndm", 0.6, 7)]
    {
        let whole = plan(method, &config, &Request::whole(10)).unwrap();
        let first = Request { denoising_end: Some(part), ..Request::whole(10) };
        let first = plan(method, &config, &first).unwrap();
        let second = Request { denoising_start: Some(part), ..Request::whole(10) };
        let second = plan(method, &config, &second).unwrap();
        assert_eq!(first.steps.len(), n_first, "{method}");
        assert_eq!(first.steps[..], whole.steps[..n_first], "{method}");
        assert_eq!((second.start.latent, second.start.noise), (1.0, 0.0), "{method}");
        let timesteps = |trajectory: &Trajectory| -> Vec<f64> {
            trajectory.steps.iter().map(|step| step.timestep.0).collect()
        };
        let both = [timesteps(&first), timesteps(&second)].concat();
        assert_eq!(both, timesteps(&whole), "{method}");
        // Methods without a memory go on as if nothing had happened; the others begin anew.
        if ["ddim", "euler", "euler_a"].contains(&method) {
            assert_eq!(second.steps[..], whole.steps[n_first..], "{method}");
        }
    }
    for part in [0.0, 1.0, f64::NAN, 0.001, 0.9999] {
        let end = Request { denoising_end: Some(part), ..Request::whole(4) };
        let start = Request { denoising_end: None, denoising_start: Some(part), ..end };
        let both = [end, start].map(|request| plan("ddim", &config, &request));
        assert!(both.iter().any(Result::is_err), "{part}");
        for error in both.into_iter().filter_map(Result::err) {
            assert!(error.to_string().starts_with("refiner-start: "), "{error}");
        }
    }
}

#[test]
fn senseless_requests_are_usage_errors() {
    let request = |steps, schedule, strength| Request { schedule, strength, ..Request::whole(steps) };
    for (method, request) in [
        ("ddim", request(20, Some(Schedule::Karras), None)),
        ("pndm", request(20, Some(Schedule::Karras), None)),
        ("euler", request(0, None, None)),
        ("euler", request(1_000_000, None, None)),
        ("dpm++2m", request(1001, None, None)),
        ("pndm", request(3, None, None)),
        ("ddim", request(10, None, Some(0.0))),
        ("ddim", request(10, None, Some(0.05))),
        ("ddim", request(10, None, Some(1.5))),
        ("ddim", request(10, None, Some(f64::NAN))),
    ] {
        let error = plan(method, &keys(json!({"clip_sample": false})), &request).unwrap_err();
        assert!(matches!(error, SamplerError::Usage { .. }), "{method} {request:?}: {error}");
    }
    let beyond = keys(json!({"clip_sample": false, "steps_offset": 1}));
    let error = plan("ddim", &beyond, &request(1000, None, None)).unwrap_err();
    assert_eq!(error.to_string(), "steps: expected timesteps from 0 to 999, found timestep 1000");
    let error = Method::from_name("heun").unwrap_err();
    assert!(matches!(error, SamplerError::Usage { .. }), "{error}");
}

#[test]
fn broken_configurations_are_malformed() {
    let request = Request::whole(4);
    for (method, config) in [
        ("euler", json!({"beta_start": "small"})),
        ("euler", json!({"beta_start": -0.1})),
        ("euler", json!({"beta_end": 1.0})),
        ("euler", json!({"beta_schedule": 3})),
        ("euler", json!({"num_train_timesteps": 0})),
        ("euler", json!({"num_train_timesteps": 1e300})),
        ("euler", json!({"num_train_timesteps": 4_000_000_000_u64})),
        ("euler", json!({"num_train_timesteps": -5})),
        ("euler", json!({"trained_betas": [0.1, 0.2]})),
        ("euler", json!({"trained_betas": [0.1, "x"], "num_train_timesteps": 2})),
        ("euler", json!({"use_karras_sigmas": "yes"})),
        ("euler", json!({"sigma_min": 0, "use_karras_sigmas": true})),
        ("ddim", json!({"steps_offset": 1.5})),
        ("ddim", json!({"clip_sample_range": -1})),
        ("dpm++2m", json!({"lambda_min_clipped": 100})),
        ("dpm++2m", json!({"lambda_min_clipped": []})),
    ] {
        let error = plan(method, &keys(config.clone()), &request).unwrap_err();
        assert!(matches!(error, SamplerError::Malformed { .. }), "{method} {config}: {error}");
    }
    let error = plan("ddim", &keys(json!({"beta_end": 2})), &request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "scheduler_config.json: beta_end: expected a number between 0 and 1, found 2"
    );
    let error = Method::from_config("scheduler_config.json", &keys(json!({}))).unwrap_err();
    assert!(matches!(error, SamplerError::Malformed { .. }), "{error}");
}

#[test]
fn what_is_not_implemented_is_unsupported() {
    let request = Request::whole(4);
    for (method, config) in [
        ("ddim", json!({"thresholding": true})),
        ("ddim", json!({"prediction_type": "sample"})),
        ("euler", json!({"beta_schedule": "sigmoid"})),
        ("euler", json!({"use_exponential_sigmas": true})),
        ("euler", json!({"use_beta_sigmas": true})),
        ("euler", json!({"timestep_type": "continuous"})),
        ("euler_a", json!({"timestep_spacing": "other"})),
        ("dpm++2m", json!({"algorithm_type": "sde-dpmsolver++"})),
        ("dpm++2m", json!({"solver_order": 3})),
        ("dpm++2m", json!({"use_lu_lambdas": true})),
        ("dpm++2m", json!({"use_flow_sigmas": true})),
        ("dpm++2m", json!({"variance_type": "learned"})),
        ("dpm++2m", json!({"prediction_type": "flow_prediction"})),
    ] {
        let error = plan(method, &keys(config.clone()), &request).unwrap_err();
        assert!(matches!(error, SamplerError::Unsupported { .. }), "{method} {config}: {error}");
    }
    let error = plan("dpm++2m", &keys(json!({"solver_order": 3})), &request).unwrap_err();
    assert_eq!(error.to_string(), "scheduler_config.json: solver_order = 3 is not supported, only 1 or 2");
    let heun = keys(json!({"_class_name": "HeunDiscreteScheduler"}));
    let error = Method::from_config("scheduler_config.json", &heun).unwrap_err();
    assert!(matches!(error, SamplerError::Unsupported { .. }), "{error}");
}

#[test]
fn epsilon_prediction_cannot_start_without_a_signal() {
    let config = keys(json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing",
        "clip_sample": false}));
    let request = Request::whole(4);
    let error = plan("ddim", &config, &request).unwrap_err();
    assert!(matches!(error, SamplerError::Singular { step: 0, .. }), "{error}");
}

#[test]
fn a_configuration_names_its_method() {
    for method in Method::ALL {
        let config = keys(json!({"_class_name": method.class_name}));
        assert_eq!(Method::from_config("scheduler_config.json", &config).unwrap().name, method.name);
        assert_eq!(Method::from_name(method.name).unwrap().class_name, method.class_name);
    }
}

/// numpy's arange makes 62 timesteps of these, the last of which is -1.
#[test]
fn trailing_spacing_never_leaves_the_training_schedule() {
    let config = keys(json!({"timestep_spacing": "trailing"}));
    for steps in 1..=1000 {
        let request = Request::whole(steps);
        let trajectory = plan("euler", &config, &request).unwrap();
        assert_eq!(trajectory.steps.len(), steps);
        assert!(trajectory.steps.iter().all(|step| step.timestep.0 >= 0.0));
    }
}
