//! "Did you mean": the known name that is most similar to an unknown one.

/// The most similar name of `known`; `None` where none is similar.
pub(super) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (unknown.len() / 3).clamp(1, 3);
    let distances = known.into_iter().map(|name| (strsim::osa_distance(unknown, name), name));
    distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("pasword", ["password", "prefix"]), Some("password"));
        assert_eq!(nearest("max_row", ["max_rows", "max_age"]), Some("max_rows"));
        assert_eq!(nearest("cvs", ["csv", "columns"]), Some("csv"));
        assert_eq!(nearest("colour", ["password", "prefix"]), None);
    }
}
