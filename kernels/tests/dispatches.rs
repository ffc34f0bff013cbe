//! How much one dispatch does: whatever their sizes and the adapter, products, convolutions and attention keep to its limits, cover
//! their result once, and take no more dispatches than that needs.
//!
//! What a workgroup multiplies stands here a second time, as the shaders have it.

use photogram_kernels::ops::{self, Attention, Conv2d, Epilogue, MatMul};
use photogram_kernels::{
    Caps, DType, Dispatch, Op, OpError, Operand, Subgroups, TALLY_BYTES, TensorType, Variant,
};

/// Pseudo-random numbers (xorshift64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    /// 1 to `most`, as often below its root as above.
    fn extent(&mut self, most: usize) -> usize {
        let end = if self.below(2) == 0 { most.isqrt() } else { most };
        1 + self.below(end)
    }

    fn adapter(&mut self) -> Caps {
        let size = self.one_of(&[8, 32]);
        Caps {
            subgroups: (self.below(3) > 0).then_some(Subgroups { min: size, max: size }),
            max_binding_bytes: self.one_of(&[128 << 20, 128 << 20, 256 << 10, 64 << 10]),
            binding_alignment: self.one_of(&[256, 64]),
            max_groups_per_axis: self.one_of(&[65_535, 65_535, 5]),
            workgroup_bytes: 48 << 10,
            max_dispatch_flops: u64::MAX,
            cooperative: self.one_of(&[None, Some(8), Some(16)]),
            cores: self.one_of(&[2, 16, 128, 1000]),
            software: self.below(2) == 0,
        }
    }
}

/// A contraction: `products` of `[m, k] x [k, n]`, `taps` times where it is a convolution.
struct Problem {
    op: Box<dyn Op>,
    inputs: Vec<TensorType>,
    products: usize,
    taps: usize,
}

impl Problem {
    fn draw(draws: &mut Draws) -> Self {
        let dtype = draws.one_of(&[DType::F16, DType::F32]);
        let longest = draws.one_of(&[600, 6000, 40_000]);
        let (m, k, n) = (draws.extent(700), draws.extent(longest), draws.extent(700));
        let terms = k.next_multiple_of(4);
        let ty = |shape: &[usize]| TensorType::new(dtype, shape);
        let products = draws.extent(9);
        match draws.below(4) {
            0 => {
                let geglu = draws.below(4) == 0;
                let n = if geglu { n.next_multiple_of(8) } else { n };
                let op = MatMul::new(Epilogue { geglu, ..Epilogue::default() });
                let inputs = vec![ty(&[m, k]), ty(&[terms, n])];
                Problem { op: Box::new(op), inputs, products: 1, taps: 1 }
            }
            1 => {
                let inputs = vec![ty(&[products, m, k]), ty(&[products, terms, n])];
                Problem { op: Box::new(MatMul::default()), inputs, products, taps: 1 }
            }
            2 => {
                let op = MatMul { stacked: true, ..MatMul::default() };
                let inputs = vec![ty(&[1, m, k]), ty(&[products, terms, n])];
                Problem { op: Box::new(op), inputs, products, taps: 1 }
            }
            _ => {
                let kernel = [draws.extent(4), 1 + draws.extent(4)];
                let stride = [draws.extent(3), draws.extent(3)];
                let conv = Conv2d { stride, padding: [0, 2, 1, 1], ..Conv2d::default() };
                let image = [draws.extent(3), kernel[0] + draws.extent(30), kernel[1] + draws.extent(30)];
                let (k, terms) = (k.div_ceil(8), k.div_ceil(8).next_multiple_of(4));
                let inputs = vec![
                    ty(&[image[0], image[1], image[2], k]),
                    ty(&[kernel[0], kernel[1], terms, n.div_ceil(2)]),
                ];
                Problem { op: Box::new(conv), inputs, products: 1, taps: kernel[0] * kernel[1] }
            }
        }
    }

    /// The variants where they fit.
    fn variants(&self, caps: &Caps) -> Vec<Variant> {
        match self.op.variants(&self.inputs, caps) {
            Ok(variants) => variants,
            Err(OpError::TooLarge { .. } | OpError::TooMany { .. }) => Vec::new(),
            Err(error) => panic!("{:?}: {error}", self.inputs),
        }
    }

    fn columns(&self) -> usize {
        self.inputs[1].channels()
    }

    fn rows(&self) -> usize {
        self.op.infer(&self.inputs).expect("inferred").rows()
    }

    /// Terms of k are given to parts by 32.
    fn slabs(&self) -> usize {
        self.inputs[0].channels().div_ceil(32)
    }

    /// Operations of the workgroups of `variant` that share rows.
    fn group_flops(&self, variant: &Variant, caps: &Caps) -> u64 {
        let [rows, columns, terms] = tile(variant.name, caps);
        let terms = self.taps * self.inputs[0].channels().next_multiple_of(terms);
        2 * (rows * terms * self.columns().next_multiple_of(columns)) as u64
    }

    /// Rows of workgroups that `rows` rows of the result take.
    fn groups(&self, variant: &Variant, rows: usize, caps: &Caps) -> usize {
        let products = if self.is_banded(variant) { 1 } else { self.products };
        let m = rows / products;
        match variant.name {
            "matmul_register" | "conv2d_register" => (products * m.div_ceil(8)).div_ceil(4),
            name => products * m.div_ceil(tile(name, caps)[0]),
        }
    }

    fn is_banded(&self, variant: &Variant) -> bool {
        result_rows(&variant.dispatches[0]).is_some()
    }
}

/// Rows, columns and terms of k that the workgroups of a shader multiply.
fn tile(name: &str, caps: &Caps) -> [usize; 3] {
    let kind = name.trim_start_matches("matmul_").trim_start_matches("conv2d_");
    match kind {
        "register" => [32, 64, 4],
        "broadcast" => [16, 64, 4],
        "tiled_64x64" | "tiled_split" => [64, 64, 16],
        "tiled_128x64" => [128, 64, 16],
        "tiled_128x128" => [128, 128, 8],
        "cooperative" | "cooperative_split" => {
            let edge = 8 * caps.cooperative.expect("has matrix units") as usize;
            [edge, edge, 32]
        }
        _ => panic!("{name} is not known"),
    }
}

/// Bytes of the result that a dispatch is bound to, if not all.
fn result_rows(dispatch: &Dispatch) -> Option<(u64, u64)> {
    let result = dispatch.binds.iter().find(|bind| bind.operand == Operand::Output);
    result.and_then(|bind| bind.window)
}

/// Workgroups along the rows, and along the columns.
fn sides(name: &str, [x, y, z]: [u32; 3]) -> [usize; 2] {
    assert_eq!(z, 1, "{name}");
    if name.ends_with("register") { [y as usize, x as usize] } else { [x as usize, y as usize] }
}

fn check_whole(problem: &Problem, variant: &Variant, caps: &Caps) {
    let name = variant.name;
    let group_flops = problem.group_flops(variant, caps);
    let [_, columns, _] = tile(name, caps);
    let y = problem.op.infer(&problem.inputs).expect("inferred");
    for band in variant.dispatches.chunk_by(|a, b| a.binds == b.binds) {
        let rows = result_rows(&band[0]).map_or(y.rows(), |(_, bytes)| (bytes / y.row_bytes()) as usize);
        let mut next = 0;
        for (number, dispatch) in band.iter().enumerate() {
            let [groups, beside] = sides(name, dispatch.grid);
            assert_eq!(beside, problem.columns().div_ceil(columns), "{name}");
            assert_eq!(dispatch.tile_flops, groups as u64 * group_flops, "{name}");
            // The word of Params that says where it begins.
            assert_eq!(dispatch.params[7] as usize, next, "{name}");
            next += groups;
            let fits = |groups: usize| {
                groups as u64 * group_flops <= caps.max_dispatch_flops
                    && groups <= caps.max_groups_per_axis as usize
            };
            assert!(groups == 1 || fits(groups), "{name}: {groups} of {group_flops} are too many");
            let is_last = number + 1 == band.len();
            assert!(is_last || !fits(groups + 1), "{name}: {groups} of {group_flops} are too few");
        }
        assert_eq!(next, problem.groups(variant, rows, caps), "{name}: of {rows} rows");
    }
}

/// A limit of one, two or more workgroups' rows of one of the variants, or one operation beside it.
fn limit(draws: &mut Draws, problem: &Problem, variants: &[Variant], caps: &Caps) -> u64 {
    let variant = draws.one_of(variants);
    let groups = problem.groups(&variant, problem.rows(), caps);
    let groups = draws.one_of(&[1, 2, 3, groups, 1 + draws.0 as usize % groups]);
    groups as u64 * problem.group_flops(&variant, caps) + draws.below(3) as u64 - 1
}

/// Every binding is within the limit, and begins where one may.
fn check_bindings(op: &dyn Op, inputs: &[TensorType], variant: &Variant, caps: &Caps) {
    let y = op.infer(inputs).expect("inferred");
    for bind in variant.dispatches.iter().flat_map(|dispatch| &dispatch.binds) {
        let whole = match bind.operand {
            Operand::Input(i) => inputs[i].bytes(),
            Operand::Output => y.bytes(),
            Operand::Scratch(i) => variant.scratch[i].bytes(),
            Operand::Tally => TALLY_BYTES,
        };
        let (offset, bytes) = bind.window.unwrap_or((0, whole));
        let (name, operand) = (variant.name, bind.operand);
        assert!(bytes <= caps.max_binding_bytes, "{name}: {bytes} bytes of {operand:?}");
        assert!(bytes > 0 && offset + bytes <= whole, "{name}: {offset} and {bytes} bytes of {operand:?}");
        assert_eq!(offset % caps.binding_alignment, 0, "{name}: {operand:?}");
    }
}

/// Sums in parts: as many as a GPU's cores, and sums that are long enough, allow.
fn check_split(problem: &Problem, variant: &Variant, caps: &Caps) {
    let Variant { name, dispatches, scratch } = variant;
    let [first, second] = dispatches.as_slice() else { panic!("{name}: {} dispatches", dispatches.len()) };
    let own = problem.groups(variant, problem.rows(), caps);
    let [groups, beside] = sides(name, first.grid);
    let (parts, slabs) = (groups / own, problem.slabs());
    assert_eq!(groups, own * parts, "{name}");
    assert_eq!(scratch[0].shape[..], [parts * problem.rows(), problem.columns()], "{name}");
    assert!(parts * own * beside <= 2 * caps.cores && own * beside <= caps.cores / 2, "{name}: {parts}");
    assert!((2..=16).contains(&parts) && parts * 1536 <= problem.taps * slabs * 32, "{name}: {parts}");
    assert!((parts - 1) * slabs.div_ceil(parts) < slabs, "{name}: the last of {parts} has nothing to sum");
    // With a slab less to each, there would be more of them than may be.
    let most = 16.min(2 * caps.cores / (own * beside)).min(problem.taps * slabs * 32 / 1536);
    let shorter = slabs.div_ceil(parts) - 1;
    assert!(shorter == 0 || slabs.div_ceil(shorter) > most, "{name}: {parts} parts, {most} may be");
    assert!(groups <= caps.max_groups_per_axis as usize, "{name}");
    assert_eq!([first.tile_flops, second.tile_flops], [own as u64 * problem.group_flops(variant, caps), 0]);
}

/// Whether it pays to split the sums of `variant`, and may be done in 16 parts.
fn may_be_split(problem: &Problem, variant: &Variant, caps: &Caps) -> bool {
    let [_, columns, _] = tile(variant.name, caps);
    let groups = problem.groups(variant, problem.rows(), caps);
    let slabs = problem.slabs();
    !problem.is_banded(variant)
        && groups * problem.columns().div_ceil(columns) <= caps.cores / 2
        && groups as u64 * problem.group_flops(variant, caps) <= caps.max_dispatch_flops
        && slabs >= 2
        && problem.taps * slabs * 32 >= 2 * 1536
        && 16 * groups <= caps.max_groups_per_axis as usize
        && (16 * problem.rows() * problem.columns().next_multiple_of(4) * 4) as u64 <= caps.max_binding_bytes
}

#[test]
fn products_and_convolutions_keep_to_the_limits_of_a_dispatch() {
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let (mut banded, mut cut, mut split, mut too_long) = (0, 0, 0, 0);
    for _ in 0..4000 {
        let (problem, caps) = (Problem::draw(&mut draws), draws.adapter());
        let free = problem.variants(&caps);
        if free.is_empty() {
            continue;
        }
        let max_dispatch_flops = limit(&mut draws, &problem, &free, &caps);
        let caps = Caps { max_dispatch_flops, ..caps };
        let limited = problem.variants(&caps);
        let is_split = |variant: &&Variant| variant.name.ends_with("_split");
        limited.iter().for_each(|v| check_bindings(problem.op.as_ref(), &problem.inputs, v, &caps));
        for variant in limited.iter().filter(|variant| !is_split(variant)) {
            check_whole(&problem, variant, &caps);
            banded += usize::from(problem.is_banded(variant));
            cut += usize::from(variant.dispatches.len() > 1);
        }
        for variant in limited.iter().filter(is_split) {
            check_split(&problem, variant, &caps);
            split += 1;
        }
        // The limit decides on no variant but those.
        for variant in &free {
            let fits = !is_split(&variant) || variant.dispatches[0].tile_flops <= max_dispatch_flops;
            let is_there = limited.iter().any(|other| other.name == variant.name);
            assert_eq!(is_there, fits, "{}: {:?}, {caps:?}", variant.name, problem.inputs);
            too_long += usize::from(!fits);
        }
        for (whole, parts) in [
            ("matmul_tiled_64x64", "matmul_tiled_split"),
            ("conv2d_tiled_64x64", "conv2d_tiled_split"),
            ("matmul_cooperative", "matmul_cooperative_split"),
            ("conv2d_cooperative", "conv2d_cooperative_split"),
        ] {
            let find = |name| limited.iter().find(|variant| variant.name == name);
            if find(whole).is_some_and(|variant| may_be_split(&problem, variant, &caps)) {
                assert!(find(parts).is_some(), "{parts}: {:?}, {caps:?}", problem.inputs);
            }
        }
    }
    println!("{banded} in bands, {cut} cut, {split} in parts, {too_long} too long for it");
    assert!([banded, cut, split, too_long].iter().all(|count| *count > 100));
}

#[test]
fn sums_in_parts_that_one_binding_cannot_hold_are_not_split() {
    let ty = |shape: [usize; 2]| TensorType::new(DType::F16, shape);
    let inputs = [ty([800, 3072]), ty([3072, 800])];
    let is_split = |max_binding_bytes| {
        let caps = Caps { max_binding_bytes, cores: 1000, ..Caps::webgpu() };
        let variants = MatMul::default().variants(&inputs, &caps).expect("operands fit");
        variants.iter().any(|variant| variant.name == "matmul_tiled_split")
    };
    // Two sums of 4 bytes for each element; operands have 4,915,200 bytes.
    assert_eq!([5_119_999, 5_120_000].map(is_split), [false, true]);
}

#[test]
fn more_columns_than_an_axis_has_workgroups_for_are_refused() {
    let caps = Caps { max_groups_per_axis: 5, ..Caps::webgpu() };
    let variants = |columns| {
        let inputs = [TensorType::f32([2, 4]), TensorType::f32([4, columns])];
        MatMul::default().variants(&inputs, &caps).map(|variants| variants.len())
    };
    assert!(variants(320).is_ok());
    let error = variants(321).expect_err("six workgroups side by side");
    assert_eq!(error.to_string(), "matmul: 321 columns, the adapter takes 320 at most");
}

#[test]
fn attention_keeps_to_the_limits_of_a_dispatch() {
    let mut draws = Draws(0x2545_f491_4f6c_dd1d);
    let (mut cut, mut in_parts, mut refused) = (0, 0, 0);
    for _ in 0..2000 {
        let (heads, d) = (draws.extent(9), draws.extent(512));
        let [batch, queries, keys] = [draws.extent(3), draws.extent(600), draws.extent(30_000)];
        let ty = |tokens| TensorType::new(DType::F16, [batch, tokens, heads * d]);
        let op = Attention { mask: draws.below(3) == 0, ..Attention::new(heads) };
        let mut inputs = vec![ty(queries), ty(keys), ty(keys)];
        let own = [batch, heads, queries].map(|extent| if draws.below(2) == 0 { 1 } else { extent });
        inputs.extend(op.mask.then(|| TensorType::f32([own[0], own[1], own[2], keys])));
        let max_binding_bytes = draws.one_of(&[1 << 40, inputs[0].bytes().max(inputs[1].bytes())]);
        let caps = Caps { max_binding_bytes, ..draws.adapter() };
        let free = match op.variants(&inputs, &caps) {
            Ok(variants) => variants,
            Err(error) => {
                let of_mask = matches!(error, OpError::TooLarge { operand: "mask", .. });
                refused += usize::from(of_mask);
                assert!(!of_mask || inputs[3].bytes() > caps.max_binding_bytes, "{error}");
                continue;
            }
        };
        let chosen = draws.one_of(&free);
        // Queries to a workgroup, keys of a tile and features of the scores, and the same of the result.
        let tile = |variant: &Variant| {
            let quads = d.div_ceil(4);
            match variant.name {
                "attention_lanes" => (32, [16, 4 * quads], [16, 4 * quads.next_multiple_of(5)]),
                "attention_tiled" if quads <= 48 => {
                    (32, [32, 4 * quads], [1, 4 * quads.next_multiple_of(16)])
                }
                "attention_tiled" => (16, [64, 4 * quads], [1, 4 * 128]),
                "attention_cooperative" => {
                    let edge = caps.cooperative.expect("has matrix units") as usize;
                    let slices = kernels_of(variant)[0].grid[1] as usize / heads;
                    let features = slices * d.div_ceil(edge).div_ceil(slices) * edge;
                    (4 * edge, [32, 2 * slices * features], [32, features])
                }
                name => panic!("{name} is not known"),
            }
        };
        // Operations of a block of queries of all heads with some keys.
        let block_flops = |variant: &Variant, keys: usize| {
            let (queries, scores, result) = tile(variant);
            let product = |[tile, features]: [usize; 2]| keys.next_multiple_of(tile) * features;
            2 * (batch * heads * queries * (product(scores) + product(result))) as u64
        };
        let blocks = 1 + draws.below(queries.div_ceil(tile(&chosen).0));
        let limit = blocks as u64 * block_flops(&chosen, keys) + draws.below(3) as u64 - 1;
        let caps = Caps { max_dispatch_flops: limit, ..caps.clone() };
        for variant in op.variants(&inputs, &caps).expect("fits as before") {
            check_bindings(&op, &inputs, &variant, &caps);
            let name = variant.name;
            let blocks = queries.div_ceil(tile(&variant).0);
            let kernels = kernels_of(&variant);
            let range = |dispatch: &Dispatch| match dispatch.params[12..] {
                [first, end] => [first as usize, end as usize],
                _ => [0, keys],
            };
            let mut first_key = 0;
            for part in kernels.chunk_by(|a, b| range(a) == range(b)) {
                let [first, end] = range(&part[0]);
                assert_eq!(first, first_key, "{name}");
                first_key = end;
                let block_flops = block_flops(&variant, end - first);
                let fits = |blocks: usize| {
                    blocks as u64 * block_flops <= limit && blocks <= caps.max_groups_per_axis as usize
                };
                let mut next = 0;
                for dispatch in part {
                    let own = dispatch.grid[0] as usize;
                    assert_eq!(dispatch.params[11] as usize, next, "{name}");
                    next += own;
                    assert_eq!(
                        dispatch.tile_flops,
                        own as u64 * block_flops,
                        "{name}: {first} to {end} of {keys}"
                    );
                    assert!(own == 1 || fits(own), "{name}: {own} are too many");
                    assert!(next == blocks || !fits(own + 1), "{name}: {own} are too few");
                }
                assert_eq!(next, blocks, "{name}");
                in_parts += usize::from(end - first < keys);
            }
            assert_eq!(first_key, keys, "{name}");
            cut += usize::from(kernels.len() > 1);
        }
    }
    println!("{cut} cut, {in_parts} in parts of keys, {refused} refused");
    assert!(cut > 100 && in_parts > 100 && refused > 10);
}

/// A convolution whose result, and whose operands, may have other types.
fn draw_convolution(draws: &mut Draws) -> (Conv2d, Vec<TensorType>) {
    let kernel = [draws.extent(4), 1 + draws.extent(3)];
    // Up to windows that lie in it as a whole.
    let padding = [kernel[0], kernel[0], kernel[1], kernel[1]].map(|most| draws.below(most + 2));
    let mut dtype = || draws.one_of(&[DType::F16, DType::F32]);
    let (of_x, of_y, of_residual) = (dtype(), dtype(), dtype());
    let (channels, columns) = (draws.extent(9), draws.extent(9));
    let image = [draws.extent(3), kernel[0] + draws.extent(20), kernel[1] + draws.extent(20), channels];
    let w = [kernel[0], kernel[1], channels.next_multiple_of(4), columns];
    let epilogue = Epilogue { residual: draws.below(2) == 0, dtype: Some(of_y), ..Epilogue::default() };
    let stride = [draws.extent(3), draws.extent(3)];
    let plain = Epilogue { residual: false, ..epilogue.clone() };
    let mut inputs = vec![TensorType::new(of_x, image), TensorType::new(DType::F16, w)];
    let y = Conv2d { stride, padding, epilogue: plain }.infer(&inputs).expect("a sound convolution");
    inputs.extend(epilogue.residual.then(|| TensorType::new(of_residual, y.shape.clone())));
    (Conv2d { stride, padding, epilogue }, inputs)
}

/// The fewest bands of one size that bindings allow, if any do: a band of all rows, or of as many as make every band begin where
/// a binding may.
fn fewest_bands(conv: &Conv2d, inputs: &[TensorType], caps: &Caps) -> Option<usize> {
    let (x, w) = (&inputs[0], &inputs[1]);
    let y = conv.infer(inputs).expect("inferred");
    let result = || inputs[2..].iter().chain([&y]);
    let (batch, height, width) = (x.shape[0], x.shape[1], x.shape[2]);
    // Rows of x that a row of the result reads.
    let read = |row: usize| {
        let (image, top) = (row / y.shape[1] * height, row % y.shape[1] * conv.stride[0]);
        let inside = move |u: usize| (top + u).checked_sub(conv.padding[0]).filter(|row| *row < height);
        (0..w.shape[0]).filter_map(inside).map(move |row| image + row)
    };
    // Bytes of x for pixels of the result, from where a binding may begin; of one row where none is read.
    let bytes_of_x = |first: usize, rows: usize| {
        let all = || (first / y.shape[2]..=(first + rows - 1) / y.shape[2]).flat_map(read);
        let (from, to) = (all().min().unwrap_or(0), all().max().unwrap_or(0) + 1);
        assert!(to <= batch * height);
        let begin = (0..=from * width)
            .rev()
            .find(|p| (*p as u64 * x.row_bytes()).is_multiple_of(caps.binding_alignment));
        ((to * width - begin.expect("the first")) as u64) * x.row_bytes()
    };
    let limit = caps.max_binding_bytes;
    let fits = |rows: usize| {
        let is_aligned =
            |ty: &TensorType| (rows as u64 * ty.row_bytes()).is_multiple_of(caps.binding_alignment);
        (rows == y.rows() || result().all(is_aligned))
            && result().all(|ty| rows as u64 * ty.row_bytes() <= limit)
            && (0..y.rows()).step_by(rows).all(|first| bytes_of_x(first, rows.min(y.rows() - first)) <= limit)
    };
    (1..=y.rows()).filter(|rows| fits(*rows)).map(|rows| y.rows().div_ceil(rows)).min()
}

#[test]
fn convolutions_take_as_few_bands_as_bindings_allow() {
    let mut draws = Draws(0xd1b5_4a32_d192_ed03);
    let (mut banded, mut refused) = (0, 0);
    for _ in 0..3000 {
        let (conv, inputs) = draw_convolution(&mut draws);
        let max_binding_bytes = inputs[1].bytes() + draws.extent(20_000) as u64;
        let binding_alignment = draws.one_of(&[32, 64, 256]);
        let caps = Caps { max_binding_bytes, binding_alignment, ..Caps::webgpu() };
        let fewest = fewest_bands(&conv, &inputs, &caps);
        let variants = match conv.variants(&inputs, &caps) {
            Ok(variants) => variants,
            Err(error) => {
                assert_eq!(fewest, None, "{error}: {conv:?} of {inputs:?}, {caps:?}");
                refused += 1;
                continue;
            }
        };
        for variant in &variants {
            check_bindings(&conv, &inputs, variant, &caps);
            let bands = variant.dispatches.chunk_by(|a, b| a.binds == b.binds).count();
            let is_split = variant.name.ends_with("_split");
            assert!(
                is_split || Some(bands) == fewest,
                "{bands} for {fewest:?}: {conv:?} of {inputs:?}, {caps:?}"
            );
        }
        banded += usize::from(fewest > Some(1));
    }
    println!("{banded} in bands, {refused} refused");
    assert!(banded > 300 && refused > 30);
}

/// Copies, norms and the like take the time that their bytes take.
#[test]
fn products_alone_have_tiles() {
    for cooperative in [None, Some(8), Some(16)] {
        let subgroups = Some(Subgroups { min: 8, max: 8 });
        let caps =
            Caps { subgroups, cooperative, workgroup_bytes: 48 << 10, software: true, ..Caps::webgpu() };
        for case in ops::cases() {
            let variants = case.op.variants(&case.inputs, &caps).expect("fits");
            for dispatch in variants.iter().flat_map(|variant| &variant.dispatches) {
                let file = dispatch.shader.file;
                let has_tiles = (file.starts_with("matmul_") && file != "matmul_parts")
                    || (file.starts_with("attention_") && file != "attention_repitch");
                assert_eq!(dispatch.tile_flops > 0, has_tiles, "{file} of {case:?}");
            }
        }
    }
}

/// The dispatches that attend, without those that copy heads.
fn kernels_of(variant: &Variant) -> Vec<Dispatch> {
    let attends = |dispatch: &&Dispatch| dispatch.shader.file == variant.name;
    variant.dispatches.iter().filter(attends).cloned().collect()
}
