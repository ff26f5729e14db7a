//! `labels_raw`: `k="v",…` as Prometheus writes labels.

/// The labels in a `labels_raw` cell, in order; `None` if it does not read as labels.
///
/// Quotes inside a value are escaped by a backslash or doubled; a cell whose quotes were doubled once too often (`k=""v""`) and
/// values without quotes (`k=v,`) are understood too, and so are braces around it all.
pub(in crate::source) fn parse(cell: &str) -> Option<Vec<(&str, String)>> {
    let mut rest = cell.trim();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.strip_suffix('}')?.trim();
    }
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'.' | b'-' | b'/')) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        labels.push((name, value));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(labels)
}

/// One value, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let ends = |rest: &str| rest.is_empty() || rest.trim_start().starts_with(',');
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let plain = text[..end].trim_end();
        return (!plain.contains('"')).then(|| (plain.to_owned(), &text[end..]));
    };
    if let Some(rest) = quoted.strip_prefix('"') {
        if ends(rest) {
            return Some((String::new(), rest));
        }
        let (inner, after) = rest.split_once("\"\"")?;
        return (ends(after) && !inner.contains('"')).then(|| (inner.to_owned(), after));
    }
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            '"' => {
                let rest = &quoted[at + 1..];
                if !rest.starts_with('"') {
                    return Some((value, rest));
                }
                value.push('"');
                chars.next();
            }
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(cell: &str) -> Option<Vec<(String, String)>> {
        Some(parse(cell)?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    #[test]
    fn reads_every_way_of_quoting() {
        let both = Some(vec![("a".to_owned(), "x, y".to_owned()), ("b".to_owned(), String::new())]);
        for cell in [r#"a="x, y",b="""#, r#"{a="x, y",b=""}"#, r#" a="x, y" , b="" ,"#, r#"a=""x, y"",b="""#] {
            assert_eq!(of(cell), both, "{cell}");
        }
        assert_eq!(of(r#"a="say \"hi\"""#), of(r#"a="say ""hi""""#));
        assert_eq!(of("a=x,b=y z"), Some(vec![("a".into(), "x".into()), ("b".into(), "y z".into())]));
        assert_eq!(of(""), Some(vec![]));
        for cell in ["a", r#"a="x"#, r#"a="x"y"#, r#"="x""#, r#"a=x"y""#, "{a=1", r#"a b="x""#, r#"a="\"#] {
            assert_eq!(of(cell), None, "{cell}");
        }
    }

    proptest! {
        #[test]
        fn what_prometheus_writes_comes_back(labels in prop::collection::vec(("[a-z_]{1,8}", "\\PC{0,12}"), 0..5)) {
            let cell: Vec<String> = labels
                .iter()
                .map(|(k, v)| format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            prop_assert_eq!(of(&cell.join(",")), Some(labels));
        }

        #[test]
        fn never_panics(cell in "[a=\",\\\\{} é]{0,24}") {
            let _ = parse(&cell);
        }
    }
}
