//! `photogram generate`: a prompt becomes a picture.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::pipelines::{Image, Model, Pipeline, Planned, Request};
use kernels::DType;
use loaders::RgbPicture;
use serde_json::json;

use crate::adapter::{Adapter, open_tuned};
use crate::args::GenerateArgs;
use crate::dump::{Dump, dump_path};
use crate::failure::{Code, Failure};
use crate::metadata::{KEYWORD, SOFTWARE, Settings};
use crate::noise::{Noise, read_latents};
use crate::output::{check_writable, picture_paths, write_json, write_picture};
use crate::ranges::Ranges;
use crate::report::{Report, Verbosity};
use crate::request::{build_request, check_args, limit_memory, open_model};
use crate::stored::StoredPipelines;

/// Seconds of each stage, over all pictures.
#[derive(Default)]
struct Seconds {
    load: Duration,
    encode: Duration,
    steps: Vec<Duration>,
    decode: Duration,
}

/// Draws the pictures that `args` ask for.
///
/// Whatever can be wrong with a flag is found before a weight is read.
pub(crate) async fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let started = Instant::now();
    check_args(args)?;
    let outputs = picture_paths(&args.output, args.batch_count)?;
    for path in outputs.first().into_iter().chain(&args.stats).chain(&args.trace_ranges) {
        check_writable(path)?;
    }
    if let Some(folder) = &args.dump {
        check_writable(&dump_path(folder, 0, args.batch_count))?;
    }
    let verbosity = match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    draw(args, &Report::new(verbosity), started, |image_idx, drawn| {
        let path = &outputs[image_idx];
        write_picture(path, &drawn.picture, &drawn.texts())?;
        Ok(path.display().to_string())
    })
    .await
}

/// A finished picture.
pub(crate) struct Drawn {
    pub(crate) picture: RgbPicture,
    /// Its settings, unless they are to be left out.
    parameters: Option<String>,
}

impl Drawn {
    /// The texts that its file has.
    pub(crate) fn texts(&self) -> Vec<(&str, &str)> {
        let texts =
            self.parameters.iter().flat_map(|text| [(KEYWORD, text.as_str()), ("Software", SOFTWARE)]);
        texts.collect()
    }
}

/// Draws the pictures that `args` ask for and gives each to `keep`, which says where it is now. `started` is when the command
/// began.
///
/// # Errors    those of `keep`, and of drawing
pub(crate) async fn draw(
    args: &GenerateArgs,
    report: &Report,
    started: Instant,
    mut keep: impl FnMut(usize, &Drawn) -> Result<String, Failure>,
) -> Result<(), Failure> {
    report.stage("opening the model");
    let model = open_model(&args.source).await?;
    let model = match &args.refiner {
        Some(path) => model.with_refiner(Model::open(path, None, args.source.precision.into()).await?)?,
        None => model,
    };
    let request = build_request(args, &model)?;
    let planned = model.check(&request)?;
    let latents = match &args.latents {
        Some(path) => Some(read_latents(path, planned.latent_shape).await?),
        None => None,
    };
    if args.seed < 0 {
        report.note(&format!("seed {}", request.seed.0));
    }

    report.stage("compiling kernels, loading weights");
    let Adapter { gpu, notes } = open_tuned(&args.source.adapter, report).await?;
    report.detail(&format!("adapter: {} ({})", gpu.adapter_name(), gpu.driver()));
    let stored = StoredPipelines::load(&gpu, report).await;
    let refiner = model.refiner.as_ref().map(|refiner| refiner.name.clone());
    let mut pipeline = Pipeline::new(gpu.clone(), model);
    limit_memory(&mut pipeline, &args.memory);
    // Written whatever comes of the picture: that is what it is for.
    let ranges = args.trace_ranges.as_ref().map(|path| Ranges::begin(&gpu, path, report));
    let encoding = Instant::now();
    pipeline.condition(&request).await?;
    let encode = encoding.elapsed();
    pipeline.prepare(&request).await?;
    report.detail(&format!(
        "{}: {}, {} steps of {} ({}), {}",
        pipeline.model().name,
        request.size,
        planned.steps().count(),
        planned.method.name,
        planned.trajectory.schedule.name(),
        pipeline.dtype(),
    ));
    if pipeline.dtype() == DType::F16 && pipeline.vae_dtype() == DType::F32 {
        report.note(
            "the autoencoder runs in f32: models of its kind overflow f16 (force_upcast, which is on where nothing says no)",
        );
    }
    let seconds = Seconds { load: started.elapsed() - encode, encode, ..Seconds::default() };
    let mut drawing = Drawing { args, report, notes, planned, refiner, seconds };

    for image_idx in 0..args.batch_count {
        let request = Request { seed: request.seed.of_image(image_idx), ..request.clone() };
        let picture_started = Instant::now();
        let image = drawing.draw(&mut pipeline, &request, latents.clone(), image_idx).await?;
        let place = keep(image_idx, &drawing.drawn(&image, &request, &pipeline)?)?;
        report.note(&format!(
            "{place}: {}, seed {}, {:.1} s",
            image.size(),
            request.seed.0,
            picture_started.elapsed().as_secs_f64()
        ));
    }
    if let Some(stored) = stored {
        stored.save(&gpu, report);
    }
    if let Some(path) = &args.stats {
        let stats = drawing.stats(&pipeline, &request, started.elapsed())?;
        write_json(path, &stats)?;
    }
    ranges.map_or(Ok(()), Ranges::end)
}

/// What the pictures of a batch share.
struct Drawing<'a> {
    args: &'a GenerateArgs,
    report: &'a Report,
    /// What a user should know about the adapter.
    notes: Vec<String>,
    planned: Planned,
    /// The refiner's name.
    refiner: Option<String>,
    seconds: Seconds,
}

impl Drawing<'_> {
    async fn draw(
        &mut self,
        pipeline: &mut Pipeline,
        request: &Request,
        latents: Option<Vec<f32>>,
        image_idx: usize,
    ) -> Result<Image, Failure> {
        let encoding = Instant::now();
        let noise = Noise::draw(&self.planned, request.rng, request.seed, latents);
        let vae_dtype = pipeline.vae_dtype();
        let mut run = pipeline.start_from(request, noise.source()).await?;
        let mut dump = self.args.dump.as_ref().map(|folder| {
            let path = dump_path(folder, image_idx, self.args.batch_count);
            Dump::new(path, self.planned.latent_shape)
        });
        if let Some(dump) = &mut dump {
            dump.start(&run, &noise).await?;
        }
        self.seconds.encode += encoding.elapsed();

        let label = match self.args.batch_count {
            1 => "drawing".to_owned(),
            n_pictures => format!("drawing {} of {n_pictures}", image_idx + 1),
        };
        self.report.steps(&label, run.total());
        let mut step_started = Instant::now();
        while let Some(progress) = run.next().await? {
            if let Some(dump) = &mut dump {
                dump.step(&run, progress).await?;
            } else if self.args.stats.is_some() {
                // A step is only queued; what it took is known once its latent is there.
                run.latent().await?;
            }
            self.report.step();
            self.seconds.steps.push(step_started.elapsed());
            step_started = Instant::now();
        }

        self.report.stage("decoding");
        let decoding = Instant::now();
        let image = run.decode().await?;
        drop(run);
        if pipeline.vae_dtype() != vae_dtype {
            self.report.note("the autoencoder's numbers left f16's range: it runs in f32 from here on");
        }
        self.seconds.decode += decoding.elapsed();
        if let Some(dump) = dump {
            dump.write(&image)?;
        }
        Ok(image)
    }

    fn drawn(&self, image: &Image, request: &Request, pipeline: &Pipeline) -> Result<Drawn, Failure> {
        let size = image.size();
        let picture = RgbPicture::new(size.width as u32, size.height as u32, image.to_rgb8());
        let picture =
            picture.ok_or_else(|| Failure::new(Code::Bug, format!("a picture of {size} pixels")))?;
        // `..` and the like have no name.
        let name =
            |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let source = &self.args.source;
        let (vae, latents) = (source.vae.as_ref().map(name), self.args.latents.as_ref().map(name));
        let settings = Settings {
            request,
            method: self.planned.method,
            schedule: self.planned.trajectory.schedule,
            model: source.model.as_ref().map(|_| pipeline.model().name.as_str()),
            refiner: self.refiner.as_deref(),
            vae: vae.as_deref(),
            latents: latents.as_deref(),
            dtype: pipeline.dtype(),
        };
        Ok(Drawn { picture, parameters: (!self.args.no_metadata).then(|| settings.parameters()) })
    }

    fn stats(
        &self,
        pipeline: &Pipeline,
        request: &Request,
        total: Duration,
    ) -> Result<serde_json::Value, Failure> {
        let stats = pipeline.stats(request)?;
        let Seconds { load, encode, steps, decode } = &self.seconds;
        Ok(json!({
            "version": SOFTWARE,
            "model": pipeline.model().name,
            "adapter": stats.adapter,
            "driver": stats.driver,
            "notes": self.notes,
            "dtype": pipeline.dtype().to_string(),
            "width": request.size.width,
            "height": request.size.height,
            "pictures": self.args.batch_count,
            "sampler": self.planned.method.name,
            "seconds": {
                "load": load.as_secs_f64(),
                "encode": encode.as_secs_f64(),
                "steps": steps.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
                "decode": decode.as_secs_f64(),
                "total": total.as_secs_f64(),
            },
            "dispatches": {
                "denoiser": stats.denoiser_dispatches,
                "denoiser_once_per_prompt": stats.prompt_dispatches,
                "decoder": stats.decoder_dispatches,
            },
            "denoiser_flops": stats.denoiser_flops,
            "pipelines": stats.pipelines,
            "peak_bytes": stats.peak_bytes,
        }))
    }
}
