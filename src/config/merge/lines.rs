pub(crate) fn merge(_base: Option<&[u8]>, user: &[u8], _new: &[u8]) -> Vec<u8> {
    user.to_vec()
}
