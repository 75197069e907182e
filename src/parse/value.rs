//! Values of parameters: numbers, sizes, times.
//!
//! What does not fit nginx's `int` is wrong here; nginx cuts it off there.

/// ngx_atoi(): decimal digits, at least one.
pub(super) fn number<T: TryFrom<i64>>(text: &[u8]) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    let value = text.iter().try_fold(0_i64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    T::try_from(value).ok()
}

/// ngx_parse_size(): bytes, or with `k` or `m`.
pub(super) fn size(text: &[u8]) -> Option<i32> {
    let (digits, scale) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 1024),
        (b'm' | b'M', digits) => (digits, 1024 * 1024),
        _ => (text, 1),
    };
    number::<i32>(digits)?.checked_mul(scale)
}

/// ngx_parse_time(): seconds, or `1d 2h 30m` and the like, each unit once and
/// from the largest to the smallest.
pub(super) fn seconds(text: &[u8]) -> Option<i32> {
    const UNITS: [(u8, i64); 8] = [
        (b'y', 60 * 60 * 24 * 365),
        (b'M', 60 * 60 * 24 * 30),
        (b'w', 60 * 60 * 24 * 7),
        (b'd', 60 * 60 * 24),
        (b'h', 60 * 60),
        (b'm', 60),
        (b's', 1),
        (b' ', 1),
    ];
    let mut units = UNITS.iter();
    let (mut total, mut value, mut any) = (0_i64, 0_i64, false);
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte.is_ascii_digit() {
            value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
            any = true;
            continue;
        }
        let scale = units.find(|unit| unit.0 == byte)?.1;
        match (byte, rest.first()) {
            // `ms`, which is not for whole seconds.
            (b'm', Some(b's')) => return None,
            (b's', _) => units = [].iter(),
            _ => {}
        }
        total = total.checked_add(value.checked_mul(scale)?)?;
        value = 0;
        let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
        rest = &rest[blanks..];
    }
    let total = total.checked_add(value)?;
    i32::try_from(total).ok().filter(|_| any)
}
