"""The tiny random pipelines, as one table: what README.md lists.

`pipelines.py` writes them and records their runs.
"""

import dataclasses

from recording import Run

END = "<|endoftext|>"
PAD_2 = "!"  # of SD 2.x and of SDXL's second tokenizer

SD1_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
# as SD 1.5 ships it: neither timestep_spacing nor prediction_type
SD1_SCHEDULER = dict(
    SD1_BETAS, _class_name="PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, clip_sample=False, trained_betas=None
)
# as SD 2.1 ships it
SD2_SCHEDULER = dict(
    SD1_BETAS,
    _class_name="DDIMScheduler",
    prediction_type="v_prediction",
    set_alpha_to_one=False,
    steps_offset=1,
    clip_sample=False,
    skip_prk_steps=True,
    trained_betas=None,
)
# as SDXL base and the refiner ship it
SDXL_SCHEDULER = dict(
    SD1_BETAS,
    _class_name="EulerDiscreteScheduler",
    clip_sample=False,
    interpolation_type="linear",
    prediction_type="epsilon",
    sample_max_value=1.0,
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    timestep_spacing="leading",
    trained_betas=None,
    use_karras_sigmas=False,
)
# SD-Turbo ships this, SDXL-Turbo the same with the ancestral scheduler's name
TURBO_SCHEDULER = dict(SDXL_SCHEDULER, timestep_spacing="trailing")


@dataclasses.dataclass(frozen=True)
class Storage:
    """How the folder is written; the numbers in it are the same.

    `dtype`: f32, f16 or bf16; `variant`: infix of the weight files' names; `shard_size`: of the UNet, with an
    index.json; `text_prefix`: `text_model.` before CLIP's names and position_ids among them, as transformers before 5
    wrote it; `special_tokens_map`: special_tokens_map.json has the padding token, as in the folders of SD 2.x and SDXL;
    `tokenizer_json`: tokenizer.json instead of vocab.json and merges.txt; `vae_query_names`: the VAE's attention under
    the names of diffusers before 0.18 (query, key, value, proj_attn), as SD 1.5's folder has it.
    """

    dtype: str = "f16"
    variant: str | None = None
    shard_size: str | None = None
    text_prefix: bool = False
    special_tokens_map: bool = False
    tokenizer_json: bool = False
    vae_query_names: bool = False


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A tiny pipeline: keyword arguments of the models, their storage, and the runs to record by folder name.

    `latent_rms`: about the rms of the runs' last latents, which the decoder's weights are scaled for; `context_rms`: the
    same for cross attention; `unet_scales`: what else its weights aim at. `text_2`: SDXL's second encoder; a refiner has
    no first. `pad`, `pad_2`: the tokenizers' padding; `legacy_ids`: the encoders' configs name the special tokens 0, 2
    and 1, as transformers before 4.31 wrote them; `options`: other keys of model_index.json; `vae_of`: the pipeline whose
    VAE this one has; `other_vae`: arguments of the VAE in the folder `vae`.
    """

    unet: dict
    vae: dict
    text: dict | None
    scheduler: dict
    runs: dict[str, Run]
    latent_rms: float
    storage: Storage = Storage()
    text_2: dict | None = None
    context_rms: float = 1.0
    unet_scales: dict = dataclasses.field(default_factory=dict)
    pad: str = END
    pad_2: str = PAD_2
    legacy_ids: bool = False
    options: dict = dataclasses.field(default_factory=dict)
    vae_of: str | None = None
    other_vae: dict | None = None


def unet(channels: tuple[int, ...], attention: tuple[bool, ...], **config: object) -> dict:
    """UNet2DConditionModel's arguments; `attention`: whether the level has cross attention, finest first."""
    return dict(
        sample_size=8,
        block_out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        **{"layers_per_block": 1, "norm_num_groups": 8, **config},
    )


def vae(channels: tuple[int, ...], **config: object) -> dict:
    """AutoencoderKL's arguments; it halves the picture len(channels) - 1 times."""
    return dict(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        **{"layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4, "sample_size": 64, **config},
    )


def text(width: int, n_heads: int, n_layers: int, n_positions: int, activation: str, **config: object) -> dict:
    """CLIPTextConfig's arguments but for the vocabulary."""
    return dict(
        hidden_size=width,
        num_attention_heads=n_heads,
        num_hidden_layers=n_layers,
        max_position_embeddings=n_positions,
        hidden_act=activation,
        **{"intermediate_size": 4 * width, "projection_dim": width, **config},
    )


def text_time(dim: int, pooled: int, n_ids: int) -> dict:
    """UNet2DConditionModel's arguments for SDXL: linear projections, and an embedding of `pooled` numbers and `n_ids`
    sizes or scores of `dim` each."""
    return dict(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=dim,
        projection_class_embeddings_input_dim=pooled + n_ids * dim,
    )


# the zeros that stand for a negative prompt leave cross attention without an anchor: sharper layers in such number are chaotic
SOFT = dict(logits=0.7, gelu=0.8)
REFINER = dict(refiner="../../sdxl_refiner/model")

PIPELINES: dict[str, Pipeline] = {
    # Stable Diffusion 1.x's layout: four levels, the last without attention; latents of 8x8 shrink to one pixel
    "sd1_layout": Pipeline(
        unet=unet((8, 16, 16, 16), (True, True, True, False), layers_per_block=2, attention_head_dim=2, cross_attention_dim=32, norm_num_groups=2),
        vae=vae((8, 8, 16, 16), scaling_factor=0.18215),
        text=text(32, 4, 2, 77, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(text_prefix=True, vae_query_names=True),
        latent_rms=3.5,
        runs={
            "pndm": Run("a lighthouse at dusk, oil painting", "blurry", 64, 64, 5, 3.0, "pndm", "discrete", 1),
            "pndm_img2img": Run("a red apple", "", 64, 64, 8, 4.0, "pndm", "discrete", 2, "init.png", 0.6),
        },
    ),
    # Stable Diffusion 2.x's layout: linear projections, heads per level, GELU, v prediction, upcast_attention
    "sd2_layout": Pipeline(
        unet=unet(
            (16, 20, 20),
            (True, True, True),
            attention_head_dim=(2, 2, 4),
            cross_attention_dim=40,
            norm_num_groups=4,
            use_linear_projection=True,
            upcast_attention=True,
        ),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(40, 5, 3, 24, "gelu"),
        scheduler=SD2_SCHEDULER,
        latent_rms=1.0,
        runs={
            "ddim": Run("a quiet river, watercolour", "noisy, ugly", 32, 40, 5, 2.5, "ddim", "discrete", 3),
            "dpmpp_2m_karras_img2img": Run("a stone bridge", "", 32, 40, 7, 2.5, "dpm++2m", "karras", 4, "init.png", 0.8),
        },
    ),
    # latents of 19x27: 19 -> 10 -> 5 and 27 -> 14 -> 7, so that upsampling goes to a given size
    "odd_sizes": Pipeline(
        unet=unet((16, 24, 24), (True, True, False), attention_head_dim=2, cross_attention_dim=24),
        vae=vae((8, 8, 16, 16), scaling_factor=0.2),
        text=text(24, 3, 2, 16, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(tokenizer_json=True),
        latent_rms=16.0,
        runs={"euler": Run("the old tree in the snow", "", 216, 152, 4, 4.0, "euler", "discrete", 5)},
    ),
    # head dims 5 and 40, five norm groups
    "head_dims_5_40": Pipeline(
        unet=unet((20, 40), (True, True), attention_head_dim=(4, 1), cross_attention_dim=32, norm_num_groups=5),
        vae=vae((10, 20, 20), norm_num_groups=5, scaling_factor=0.5),
        text=text(32, 2, 1, 20, "gelu", intermediate_size=72),
        scheduler=dict(SD1_BETAS, _class_name="EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
        latent_rms=8.0,
        runs={
            "euler_a": Run("black cat, white dog", "paper", 40, 24, 5, 2.0, "euler_a", "discrete", 6),
            "euler_a_img2img": Run("black cat", "", 40, 24, 6, 3.0, "euler_a", "discrete", 7, "init.png", 0.7),
        },
    ),
    # attention in the middle block alone; bf16
    "mid_attention_only": Pipeline(
        unet=unet((16, 32), (False, False), attention_head_dim=4, cross_attention_dim=24),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(24, 2, 2, 16, "quick_gelu", layer_norm_eps=1e-6),
        scheduler=dict(SD1_BETAS, _class_name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1, use_karras_sigmas=True),
        storage=Storage(dtype="bf16"),
        latent_rms=3.0,
        runs={
            "euler_karras": Run("moon and star", "sun", 48, 32, 5, 5.0, "euler", "karras", 8),
            "euler_karras_img2img": Run("moon and star", "", 48, 32, 6, 5.0, "euler", "karras", 9, "init.png", 0.7),
        },
    ),
    # two transformer layers per attention; the files are an fp16 variant
    "transformer_depth_2": Pipeline(
        unet=unet((24, 24), (True, True), attention_head_dim=(2, 3), cross_attention_dim=24, transformer_layers_per_block=2),
        vae=vae((8, 16, 16), scaling_factor=1.0),
        text=text(24, 1, 2, 16, "gelu"),
        scheduler=dict(SD1_BETAS, _class_name="DPMSolverMultistepScheduler", timestep_spacing="linspace"),
        storage=Storage(variant="fp16"),
        latent_rms=19.0,
        runs={
            "dpmpp_2m_karras": Run("a wooden boat in the rain", "blurry", 24, 40, 6, 7.5, "dpm++2m", "karras", 10),
        },
    ),
    # the UNet in shards with an index.json; f32
    "sharded": Pipeline(
        unet=unet((16, 16), (True, True), attention_head_dim=1, cross_attention_dim=32, norm_num_groups=4, norm_eps=1e-6),
        vae=vae((8, 8), layers_per_block=2, scaling_factor=0.3),
        text=text(32, 4, 1, 12, "quick_gelu"),
        scheduler=SD1_SCHEDULER,
        storage=Storage(dtype="f32", shard_size="120KB", tokenizer_json=True),
        latent_rms=7.0,
        runs={
            "euler_a_karras": Run("rain on glass", "", 16, 24, 5, 3.0, "euler_a", "karras", 11),
            "euler_a_karras_img2img": Run("rain on glass", "", 16, 24, 6, 2.0, "euler_a", "karras", 12, "init.png", 0.7),
        },
    ),
    # eight latent channels without quant convolutions or middle attention; zero terminal SNR
    "latent_8": Pipeline(
        unet=unet((16, 32), (True, False), attention_head_dim=2, cross_attention_dim=32, in_channels=8, out_channels=8),
        vae=vae(
            (8, 16, 16),
            latent_channels=8,
            layers_per_block=2,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.0,
        ),
        text=text(32, 4, 2, 16, "quick_gelu", intermediate_size=64),
        scheduler=dict(
            SD1_BETAS,
            _class_name="DDIMScheduler",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            clip_sample=False,
        ),
        latent_rms=1.0,
        runs={
            "ddim": Run("3 yellow fish!", "", 32, 32, 6, 3.0, "ddim", "discrete", 13),
            "ddim_img2img": Run("3 yellow fish!", "", 32, 32, 8, 3.0, "ddim", "discrete", 14, "init.png", 0.5),
        },
    ),
    # the VAE halves once; head dim 12; latents of 12x20
    "vae_downscale_2": Pipeline(
        unet=unet((24, 24), (True, True), layers_per_block=2, attention_head_dim=2, cross_attention_dim=24, norm_num_groups=12),
        vae=vae((8, 16), layers_per_block=2, norm_num_groups=8, latent_channels=4, scaling_factor=0.13025),
        text=text(24, 2, 2, 16, "quick_gelu"),
        scheduler=dict(_class_name="DPMSolverMultistepScheduler", beta_start=0.0001, beta_end=0.02, beta_schedule="linear", timestep_spacing="leading", steps_offset=1),
        latent_rms=20.0,
        runs={
            "dpmpp_2m": Run("a big blue window", "small", 40, 24, 6, 5.0, "dpm++2m", "discrete", 15),
            "dpmpp_2m_img2img": Run("a big blue window", "", 40, 24, 7, 5.0, "dpm++2m", "discrete", 16, "init.png", 0.75),
        },
    ),
    # no guidance; head dim 10; a prompt longer than the text encoder's positions, with accents
    "without_guidance": Pipeline(
        unet=unet((20, 20, 20), (False, True, True), attention_head_dim=2, cross_attention_dim=24, norm_num_groups=4),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(24, 3, 3, 16, "gelu", layer_norm_eps=1e-4),
        scheduler=dict(SD1_SCHEDULER, timestep_spacing="leading"),
        storage=Storage(text_prefix=True),
        latent_rms=3.0,
        runs={
            "euler": Run("un café à l'ombre, the garden in the morning, dark shadows on the water", "", 48, 24, 4, 1.0, "euler", "discrete", 17),
            "euler_img2img": Run("", "", 48, 24, 6, 1.0, "euler", "discrete", 18, "init.png", 0.7),
        },
    ),
    # a level without attention above one with it; four layers of heads of 8; pndm and dpm++2m on a v prediction
    "v_prediction_pndm": Pipeline(
        unet=unet((16, 32), (False, True), attention_head_dim=4, cross_attention_dim=32, use_linear_projection=True, norm_num_groups=4),
        vae=vae((16, 16), norm_num_groups=8, scaling_factor=0.5, use_quant_conv=False),
        text=text(32, 4, 4, 16, "quick_gelu", intermediate_size=48),
        scheduler=dict(SD1_BETAS, _class_name="PNDMScheduler", prediction_type="v_prediction", skip_prk_steps=True, steps_offset=1, timestep_spacing="leading"),
        latent_rms=1.0,
        runs={
            "pndm": Run("old paper, pencil sketch", "oil", 16, 16, 6, 2.0, "pndm", "discrete", 19),
            "euler_a": Run("old paper, pencil sketch", "oil", 16, 16, 5, 3.0, "euler_a", "discrete", 20),
            "dpmpp_2m": Run("old paper, pencil sketch", "oil", 16, 16, 5, 4.0, "dpm++2m", "discrete", 21),
        },
    ),
    # SD 2.x with odd head counts a level and latents of 9x7; "!" pads, by special_tokens_map.json alone
    "sd2_odd_heads": Pipeline(
        unet=unet((12, 20), (True, True), attention_head_dim=(3, 5), cross_attention_dim=40, norm_num_groups=4, use_linear_projection=True),
        vae=vae((8, 8, 16, 16), scaling_factor=0.18215),
        text=text(40, 5, 4, 20, "gelu"),
        scheduler=SD2_SCHEDULER,
        storage=Storage(special_tokens_map=True),
        pad=PAD_2,
        latent_rms=1.0,
        runs={
            "euler": Run("a bright window in the garden", "dark", 72, 56, 5, 4.0, "euler", "discrete", 22),
            "dpmpp_2m": Run("an old boat", None, 72, 56, 6, 3.0, "dpm++2m", "discrete", 23),
            "ddim_rescale": Run("a round stone", "paper", 56, 72, 5, 7.5, "ddim", "discrete", 24, guidance_rescale=0.7),
            "dpmpp_2m_karras_img2img": Run("snow", "", 72, 56, 6, 3.0, "dpm++2m", "karras", 25, "init.png", 0.7),
        },
    ),
    # SD-Turbo: trailing spacing, an epsilon prediction, one step or four, no guidance
    "sd_turbo": Pipeline(
        unet=unet((16, 24, 24), (True, True, False), attention_head_dim=(2, 3, 3), cross_attention_dim=32, use_linear_projection=True),
        vae=vae((8, 16, 16), scaling_factor=0.18215),
        text=text(32, 4, 3, 16, "gelu"),
        scheduler=TURBO_SCHEDULER,
        pad=PAD_2,
        latent_rms=5.0,
        runs={
            "euler_1_step": Run("a yellow house at night", None, 24, 40, 1, 1.0, "euler", "discrete", 26),
            "euler_4_steps": Run("a yellow house at night", None, 24, 40, 4, 1.0, "euler", "discrete", 27),
            "euler_a_1_step": Run("three dogs", None, 40, 24, 1, 1.0, "euler_a", "discrete", 28),
            "euler_a_4_steps": Run("three dogs", None, 40, 24, 4, 0.0, "euler_a", "discrete", 29),
            "euler_1_step_img2img": Run("a yellow house", None, 24, 40, 2, 1.0, "euler", "discrete", 30, "init.png", 0.5),
        },
    ),
    # SDXL base's layout: the finest level without attention, depths 1, 2 and 3, head counts per level; latents of 9x7
    "sdxl_layout": Pipeline(
        unet=unet(
            (8, 12, 20),
            (False, True, True),
            layers_per_block=2,
            attention_head_dim=(1, 3, 5),
            transformer_layers_per_block=(1, 2, 3),
            cross_attention_dim=24 + 32,
            norm_num_groups=4,
            **text_time(8, 20, 6),
        ),
        vae=vae((8, 8, 16, 16), scaling_factor=0.13025),
        text=text(24, 3, 3, 24, "quick_gelu"),
        text_2=text(32, 4, 4, 24, "gelu", projection_dim=20),
        scheduler=SDXL_SCHEDULER,
        storage=Storage(special_tokens_map=True),
        context_rms=0.2,
        unet_scales=SOFT,
        legacy_ids=True,
        options=dict(force_zeros_for_empty_prompt=True),
        latent_rms=6.0,
        runs={
            "euler": Run("a lighthouse at dusk, oil painting", None, 72, 56, 5, 5.0, "euler", "discrete", 31),
            "dpmpp_2m_karras": Run(
                "a red apple", "blurry", 72, 56, 6, 4.0, "dpm++2m", "karras", 32, original_size=(600, 800), crop=(3, 40), target_size=(64, 96)
            ),
            "ddim_rescale": Run("a cat and a dog", "", 56, 72, 5, 7.5, "ddim", "discrete", 33, guidance_rescale=0.7),
            "euler_a_img2img": Run("a red apple", "small, ugly", 72, 56, 6, 4.0, "euler_a", "discrete", 34, "init.png", 0.7, crop=(0, 8)),
            "euler_refiner": Run("a wooden boat in the rain", None, 72, 56, 8, 5.0, "euler", "discrete", 35, **REFINER, refiner_start=0.6),
            "dpmpp_2m_refiner": Run(
                "the moon", "sun", 72, 56, 10, 4.0, "dpm++2m", "discrete", 36, crop=(5, 0), aesthetic_score=7.5, **REFINER, refiner_start=0.5
            ),
            "ddim_refiner": Run("a wooden boat", "", 56, 72, 6, 4.0, "ddim", "discrete", 37, **REFINER, refiner_start=0.8),
            "euler_a_karras_refiner": Run(
                "a river", None, 72, 56, 7, 3.0, "euler_a", "karras", 38, **REFINER, refiner_start=0.5, negative_aesthetic_score=1.0
            ),
            "ddim_rescale_refiner": Run(
                "a stone bridge", "paper", 72, 56, 6, 7.5, "ddim", "discrete", 43, **REFINER, refiner_start=0.6, guidance_rescale=0.7
            ),
            "euler_refiner_img2img": Run(
                "a green tree", "", 72, 56, 9, 3.0, "euler", "discrete", 39, "init.png", 0.8, **REFINER, refiner_start=0.7
            ),
        },
    ),
    # a v prediction with zero terminal SNR, the empty prompt encoded, the end token's own id, every level with attention
    "sdxl_v_prediction": Pipeline(
        unet=unet(
            (12, 20),
            (True, True),
            attention_head_dim=(3, 1),
            transformer_layers_per_block=(2, 1),
            cross_attention_dim=20 + 24,
            norm_num_groups=4,
            **text_time(16, 28, 6),
        ),
        vae=vae((8, 8, 16, 16), scaling_factor=0.13025, force_upcast=False),
        text=text(20, 5, 2, 16, "quick_gelu"),
        text_2=text(24, 3, 3, 16, "gelu", projection_dim=28),
        scheduler=dict(
            SD1_BETAS,
            _class_name="EulerDiscreteScheduler",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        context_rms=0.2,
        unet_scales=SOFT,
        options=dict(force_zeros_for_empty_prompt=False),
        latent_rms=1.0,
        runs={
            "ddim_rescale": Run("a dark mountain", None, 56, 40, 6, 5.0, "ddim", "discrete", 40, guidance_rescale=0.7),
            # from the last timestep on Euler cancels sigmas of 4096 in f32
            "euler_img2img": Run("a dark mountain", "paper", 56, 40, 6, 4.0, "euler", "discrete", 41, "init.png", 0.8, target_size=(10, 300)),
            "dpmpp_2m": Run("black shadow on white snow", "", 40, 56, 6, 3.0, "dpm++2m", "discrete", 42, original_size=(1024, 7)),
            "euler_a_img2img": Run("a star", "", 56, 40, 6, 3.0, "euler_a", "discrete", 43, "init.png", 0.8),
        },
    ),
    # SDXL-Turbo: trailing spacing, one step or four, no guidance
    "sdxl_turbo": Pipeline(
        unet=unet(
            (8, 16, 16),
            (False, True, True),
            attention_head_dim=(1, 2, 4),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=16 + 24,
            **text_time(8, 16, 6),
        ),
        vae=vae((8, 16, 16), scaling_factor=0.13025, norm_num_groups=8),
        text=text(16, 1, 2, 12, "quick_gelu"),
        text_2=text(24, 2, 2, 12, "gelu", projection_dim=16),
        scheduler=dict(TURBO_SCHEDULER, _class_name="EulerAncestralDiscreteScheduler"),
        context_rms=0.2,
        unet_scales=SOFT,
        legacy_ids=True,
        options=dict(force_zeros_for_empty_prompt=True),
        latent_rms=5.0,
        runs={
            "euler_a_1_step": Run("a big blue fish", None, 40, 24, 1, 1.0, "euler_a", "discrete", 44),
            "euler_a_4_steps": Run("a big blue fish in the water at night, photograph of the river", None, 40, 24, 4, 0.0, "euler_a", "discrete", 45),
            "euler_4_steps": Run("a big blue fish", None, 24, 40, 4, 1.0, "euler", "discrete", 46),
            "euler_a_1_step_img2img": Run("a fish", None, 40, 24, 2, 1.0, "euler_a", "discrete", 47, "init.png", 0.5),
        },
    ),
    # four levels, one depth and one head count for all, no attention in the last; the files are an fp16 variant; another VAE
    "sdxl_vae": Pipeline(
        unet=unet(
            (12, 12, 12, 12),
            (True, True, True, False),
            attention_head_dim=3,
            transformer_layers_per_block=2,
            cross_attention_dim=24 + 20,
            norm_num_groups=3,
            **text_time(6, 32, 6),
        ),
        vae=vae((8, 16), scaling_factor=0.13025, norm_num_groups=8),
        text=text(24, 3, 2, 16, "quick_gelu"),
        text_2=text(20, 5, 3, 16, "gelu", projection_dim=32),
        scheduler=dict(SD1_BETAS, _class_name="DPMSolverMultistepScheduler", timestep_spacing="trailing", use_karras_sigmas=True),
        storage=Storage(variant="fp16"),
        context_rms=0.2,
        unet_scales=SOFT,
        options=dict(force_zeros_for_empty_prompt=True),
        latent_rms=10.0,
        runs={
            "dpmpp_2m_karras": Run("a glass house", "glass", 40, 24, 5, 4.0, "dpm++2m", "karras", 48),
            "euler_other_vae": Run("a glass house", None, 40, 24, 5, 3.0, "euler", "discrete", 49, vae="../vae"),
            "dpmpp_2m_other_vae_img2img": Run("a glass house", "", 40, 24, 7, 3.0, "dpm++2m", "discrete", 50, "init.png", 0.7, vae="../vae"),
        },
        other_vae=vae((10, 20), scaling_factor=0.4, norm_num_groups=5, layers_per_block=2, force_upcast=False),
    ),
    # the refiner of sdxl_layout: the second encoder alone, the middle two of four levels with attention, aesthetic scores
    "sdxl_refiner": Pipeline(
        unet=unet(
            (8, 12, 16, 16),
            (False, True, True, False),
            attention_head_dim=(1, 3, 2, 2),
            transformer_layers_per_block=2,
            cross_attention_dim=28,
            norm_num_groups=4,
            **text_time(8, 24, 5),
        ),
        vae=vae((8, 8, 16, 16), scaling_factor=0.13025),
        text=None,
        text_2=text(28, 7, 3, 24, "gelu", projection_dim=24),
        scheduler=SDXL_SCHEDULER,
        context_rms=0.2,
        unet_scales=SOFT,
        legacy_ids=True,
        options=dict(force_zeros_for_empty_prompt=False, requires_aesthetics_score=True),
        vae_of="sdxl_layout",
        latent_rms=6.0,
        runs={
            "euler_img2img": Run("a red apple", None, 72, 56, 6, 4.0, "euler", "discrete", 51, "init.png", 0.7),
            "dpmpp_2m_karras_img2img": Run(
                "a red apple",
                "blurry",
                56,
                72,
                7,
                4.0,
                "dpm++2m",
                "karras",
                52,
                "init.png",
                0.7,
                original_size=(90, 70),
                crop=(2, 30),
                aesthetic_score=7.0,
                negative_aesthetic_score=3.0,
            ),
        },
    ),
    # keys of the UNet that no published model sets otherwise
    "other_keys": Pipeline(
        unet=unet(
            (16, 24),
            (True, False),
            attention_head_dim=(2, 3),
            cross_attention_dim=24,
            norm_num_groups=4,
            conv_in_kernel=5,
            conv_out_kernel=1,
            flip_sin_to_cos=False,
            freq_shift=1,
        ),
        vae=vae((8, 16), norm_num_groups=8, scaling_factor=0.5),
        text=text(24, 2, 2, 16, "quick_gelu"),
        scheduler=dict(SD1_BETAS, _class_name="EulerDiscreteScheduler", timestep_spacing="trailing"),
        latent_rms=1.0,
        runs={"euler": Run("a blue cup on a table", "dark", 24, 32, 4, 3.0, "euler", "discrete", 60)},
    ),
}
