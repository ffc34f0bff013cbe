// The number of an invocation in a grid that was folded at the limit of the x axis; workgroups are 64 wide.
fn flat_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}
