// Tiles of the adapter's matrix units: f16 operands, f32 sums.
#ifdef COOPERATIVE_16
const TILE: u32 = 16u;
alias LeftTile = coop_mat16x16<f16, A>;
alias RightTile = coop_mat16x16<f16, B>;
alias SumTile = coop_mat16x16<f32, C>;
#else
const TILE: u32 = 8u;
alias LeftTile = coop_mat8x8<f16, A>;
alias RightTile = coop_mat8x8<f16, B>;
alias SumTile = coop_mat8x8<f32, C>;
#endif
