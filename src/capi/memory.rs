//! The caller's memory: structs that begin with their size, arrays of them, and
//! output pointers.
//!
//! A program and the library may have different versions of a struct. Both
//! begin with the same fields, and a later version only adds fields at the end.
//! `size` is how much memory the caller has: the library reads the fields
//! that it lacks as 0, and writes nothing beyond it. If the caller's struct is
//! the longer one, its tail must be 0, and is filled with a fixed byte where
//! results are written.

use std::ffi::c_char;
use std::mem::{MaybeUninit, align_of, offset_of, size_of};
use std::ptr;
use std::slice;

use super::types::*;
use crate::error::Error;

/// A struct of the C ABI that begins with its size.
///
/// # Safety
/// It is `#[repr(C)]`, begins with `size: u32`, and all its bytes may be 0.
pub(super) unsafe trait Versioned: Copy {
    const NAME: &'static str;
    /// The least `size` that is accepted: its size in version 0.1.
    const SIZE_V1: usize;
    /// Fills the part of a result that only the caller's version has.
    const UNKNOWN: u8;

    /// The default: 0 in every field but `size`.
    fn new() -> Self {
        let mut value = MaybeUninit::<Self>::zeroed();
        // SAFETY: `size` is the first field.
        unsafe {
            value
                .as_mut_ptr()
                .cast::<u32>()
                .write(size_of::<Self>() as u32)
        };
        // SAFETY: all bytes of it may be 0.
        unsafe { value.assume_init() }
    }
}

const POINTER: usize = size_of::<*const u8>();

macro_rules! frozen {
    ($($constant:ident = $size:expr => $name:ident up to $last:ident: $type:ty, $unknown:expr;)+) => {$(
        const $constant: usize = $size;
        const _: () = assert!(offset_of!($name, $last) + size_of::<$type>() == $constant);

        // SAFETY: the assertion covers its layout; integers, pointers, addresses
        // and optional functions may be 0.
        unsafe impl Versioned for $name {
            const NAME: &'static str = stringify!($name);
            const SIZE_V1: usize = $constant;
            const UNKNOWN: u8 = $unknown;
        }

        const _: () = assert!(offset_of!($name, size) == 0 && size_of::<$name>() <= LONGEST);
    )+};
}

// The sizes of version 0.1 with the last field that it had. These lines never
// change: a program that was compiled with a header of 0.1 sets these sizes.
// New fields go behind the last one, without padding, and their default is 0.
frozen! {
    RULES_SIZE_V1 = 12 => ngx_rs_rules_t up to flags: u32, 0;
    ERROR_SIZE_V1 = 272 => ngx_rs_error_t up to message: [c_char; 256], 0;
    LISTENING_SIZE_V1 = 64 + POINTER => ngx_rs_listening_t up to opened_protocol: i32, 0;
    INHERITED_SIZE_V1 = 32 + POINTER => ngx_rs_inherited_t up to flags: u32, 0;
    OPEN_SIZE_V1 = 16 + 5 * POINTER => ngx_rs_open_t up to drain: *mut ngx_rs_drain_t, 0;
    DRAINING_SIZE_V1 = 20 => ngx_rs_draining_t up to protocol: i32, 0;
    INFO_SIZE_V1 = 96 => ngx_rs_connection_info_t up to last_ack_received_ms: i64, 0xff;
    SUBFLOW_SIZE_V1 = 272 => ngx_rs_subflow_t up to remote: libc::sockaddr_storage, 0xff;
}

/// Checks at compile time that no padding ends a struct: its bytes have no
/// defined value, and a program of an older version would be told that a result
/// does not fit.
macro_rules! without_padding {
    ($($name:ident ends with $last:ident: $type:ty;)+) => {$(
        const _: () = assert!(offset_of!($name, $last) + size_of::<$type>() == size_of::<$name>());
    )+};
}

// The last field of the present version. If a new field would end in padding, add
// a field "reserved" behind it.
without_padding! {
    ngx_rs_rules_t ends with flags: u32;
    ngx_rs_error_t ends with message: [c_char; 256];
    ngx_rs_listening_t ends with opened_protocol: i32;
    ngx_rs_inherited_t ends with flags: u32;
    ngx_rs_open_t ends with drain: *mut ngx_rs_drain_t;
    ngx_rs_draining_t ends with protocol: i32;
    ngx_rs_connection_info_t ends with last_ack_received_ms: i64;
    ngx_rs_subflow_t ends with tcp_state: i64;
}

/// No struct will ever be longer, so a larger `size` was not initialised.
/// Source: openat2(2), which has the same rule for a page.
const LONGEST: usize = 4096;

/// An error in a field of a struct.
pub(super) fn field<T: Versioned>(field: &str, problem: &str) -> Error {
    Error::Argument(format!("{}: field \"{field}\" {problem}", T::NAME))
}

/// Checks that no flag is set but those of `known`.
pub(super) fn known_flags<T: Versioned>(flags: u32, known: u32) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        _ => Err(field::<T>("flags", "has an unknown flag")),
    }
}

/// Structs of the caller's, at a distance of the `size` that the first one
/// begins with.
pub(super) struct Array<T> {
    name: &'static str,
    first: *mut T,
    stride: usize,
    count: usize,
}

impl<T: Versioned> Array<T> {
    /// The argument `name`.
    ///
    /// # Safety
    /// `first` is NULL, or points to `count` structs of the size that the first
    /// one begins with, which stay there while the array is used.
    pub(super) unsafe fn new(
        name: &'static str,
        first: *mut T,
        count: usize,
    ) -> Result<Self, Error> {
        let mut array = Self {
            name,
            first,
            stride: T::SIZE_V1,
            count,
        };
        if count == 0 {
            return Ok(array);
        }
        if first.is_null() {
            return Err(array.error("is NULL"));
        }
        array.stride = array.size(0);
        if !(T::SIZE_V1..=LONGEST).contains(&array.stride) {
            let message = format!("{}: size is not initialised", T::NAME);
            return Err(Error::Argument(message));
        }
        if count > isize::MAX as usize / array.stride {
            return Err(array.error("is too long"));
        }
        Ok(array)
    }

    /// One struct, or none if `pointer` is NULL.
    ///
    /// # Safety
    /// `pointer` is NULL, or points to as many bytes as its `size` says, which
    /// stay there while the array is used.
    pub(super) unsafe fn optional(name: &'static str, pointer: *mut T) -> Result<Self, Error> {
        // SAFETY: our caller's contract.
        unsafe { Self::new(name, pointer, usize::from(!pointer.is_null())) }
    }

    /// An array of the library's own for a caller whose structs have this size.
    /// It ends with the memory that is returned beside it.
    pub(super) fn allocate(size: usize, count: usize) -> Result<(Vec<u64>, Self), Error> {
        if !(T::SIZE_V1..=LONGEST).contains(&size) || size % align_of::<T>() != 0 {
            let message = format!("argument \"size\" is not the size of {}", T::NAME);
            return Err(Error::Argument(message));
        }
        let mut memory = vec![0; (count * size).div_ceil(size_of::<u64>())];
        let array = Self {
            name: T::NAME,
            first: memory.as_mut_ptr().cast(),
            stride: size,
            count,
        };
        Ok((memory, array))
    }

    fn error(&self, problem: &str) -> Error {
        Error::Argument(format!("array \"{}\" {problem}", self.name))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.count);
        self.first.wrapping_byte_add(index * self.stride).cast()
    }

    fn size(&self, index: usize) -> usize {
        // SAFETY: at() checks the index; `size` is the first field.
        unsafe { self.at(index).cast::<u32>().read_unaligned() as usize }
    }

    /// How many bytes of a struct both versions have.
    fn known(&self) -> usize {
        self.stride.min(size_of::<T>())
    }

    /// Whether the tail, which only the caller's version has, is of this byte.
    fn tail_is(&self, index: usize, byte: u8) -> bool {
        (self.known()..self.stride).all(|offset| {
            // SAFETY: the offset is within the `stride` bytes of the struct.
            unsafe { self.at(index).wrapping_add(offset).read() == byte }
        })
    }

    /// Reads a struct whose fields are inputs.
    pub(super) fn read(&self, index: usize) -> Result<T, Error> {
        if self.size(index) != self.stride {
            return Err(self.error("has elements of different sizes"));
        }
        // A tail of UNKNOWN is what an earlier call has written.
        if !self.tail_is(index, 0) && !self.tail_is(index, T::UNKNOWN) {
            let message = format!("{}: a field that this version does not know", T::NAME);
            return Err(Error::Argument(format!("{message} is set")));
        }
        Ok(self.load(index))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Result<T, Error>> {
        (0..self.count).map(|index| self.read(index))
    }

    /// The fields that both versions have; the others are 0.
    fn load(&self, index: usize) -> T {
        let mut value = T::new();
        let to = (&raw mut value).cast::<u8>();
        // SAFETY: both have `known` bytes, and `value` is this function's alone.
        unsafe { ptr::copy_nonoverlapping(self.at(index), to, self.known()) };
        value
    }

    /// Changes fields, and leaves the tail alone.
    pub(super) fn update(&self, index: usize, change: impl FnOnce(&mut T)) {
        let mut value = self.load(index);
        change(&mut value);
        // SAFETY: at() checks the index; the struct has `stride` bytes.
        unsafe { store(&value, self.at(index), self.stride) };
    }

    /// As write(), if the caller's version has every field that is not 0.
    pub(super) fn write_whole(&self, index: usize, value: &T) -> Result<(), Error> {
        let from = ptr::from_ref(value).cast::<u8>();
        let fits = (self.known()..size_of::<T>()).all(|offset| {
            // SAFETY: within the struct, which has no padding.
            unsafe { from.wrapping_add(offset).read() == 0 }
        });
        if !fits {
            let message = format!("{}: size is too small for this result", T::NAME);
            return Err(Error::Argument(message));
        }
        self.write(index, value);
        Ok(())
    }

    /// Writes a result: all of the struct, with `size` and the tail.
    pub(super) fn write(&self, index: usize, value: &T) {
        let place = self.at(index);
        // SAFETY: at() checks the index; the struct has `stride` bytes.
        unsafe { ptr::write_bytes(place, T::UNKNOWN, self.stride) };
        // SAFETY: as above.
        unsafe { store(value, place, self.stride) };
        // SAFETY: `size` is the first field.
        unsafe { place.cast::<u32>().write_unaligned(self.stride as u32) };
    }
}

/// Writes a struct as far as `size` goes.
///
/// # Safety
/// `place` points to `size` writable bytes.
pub(super) unsafe fn store<T: Versioned>(value: &T, place: *mut u8, size: usize) {
    let from = ptr::from_ref(value).cast::<u8>();
    // SAFETY: both have so many bytes, and `value` is not the caller's memory.
    unsafe { ptr::copy_nonoverlapping(from, place, size.min(size_of::<T>())) };
}

/// An empty vector with room for as many elements as the caller passes.
pub(super) fn room<T>(name: &str, count: usize) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    match room.try_reserve_exact(count) {
        Ok(()) => Ok(room),
        Err(_) => Err(Error::Argument(format!("array \"{name}\" is too long"))),
    }
}

/// An output pointer that is not NULL.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// The argument `name`.
    ///
    /// # Safety
    /// `pointer` is NULL, or a `T` can be written there while this is used.
    pub(super) unsafe fn new(name: &str, pointer: *mut T) -> Result<Self, Error> {
        match pointer.is_null() {
            true => Err(Error::Argument(format!(
                "output pointer \"{name}\" is NULL"
            ))),
            false => Ok(Self(pointer)),
        }
    }

    pub(super) fn write(&self, value: T) {
        // SAFETY: not NULL, and the contract of new().
        unsafe { self.0.write_unaligned(value) };
    }
}

/// An array of the caller's whose elements have no size; NULL if it is empty.
///
/// # Safety
/// `pointer` is NULL or points to `count` elements that live for `'a`.
pub(super) unsafe fn slice_of<'a, T>(
    name: &str,
    pointer: *const T,
    count: usize,
) -> Result<&'a [T], Error> {
    let error = |problem| Err(Error::Argument(format!("array \"{name}\" {problem}")));
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => error("is NULL"),
        _ if !pointer.is_aligned() => error("is not aligned"),
        _ if count > isize::MAX as usize / size_of::<T>() => error("is too long"),
        // SAFETY: not NULL, aligned, not too long, and our caller's contract.
        _ => Ok(unsafe { slice::from_raw_parts(pointer, count) }),
    }
}

/// Writes bytes to an output buffer if it is long enough.
///
/// # Safety
/// `pointer` is NULL, or so many bytes can be written there.
pub(super) unsafe fn bytes_out(
    name: &str,
    pointer: *mut u8,
    room: usize,
    bytes: &[u8],
) -> Result<(), Error> {
    // SAFETY: our caller's contract.
    let place = unsafe { Out::new(name, pointer) }?;
    if bytes.len() <= room {
        // SAFETY: not NULL, and there is room.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.0, bytes.len()) };
    }
    Ok(())
}

/// A handle that an earlier call made.
///
/// # Safety
/// `pointer` is NULL, or from the call that makes it and not used elsewhere for
/// `'a`.
pub(super) unsafe fn handle<'a, T>(name: &str, pointer: *mut T) -> Result<&'a mut T, Error> {
    // SAFETY: our caller's contract.
    let handle = unsafe { pointer.as_mut() };
    handle.ok_or_else(|| Error::Argument(format!("pointer \"{name}\" is NULL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct of two versions of the library: `V1` is what the first one
    /// knows, and `V2` has new fields.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct V1 {
        size: u32,
        value: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct V2 {
        size: u32,
        value: u32,
        option: u32,
        result: i32,
    }

    const SIZE_V1: usize = 8;
    const SIZE_V2: usize = 16;
    /// Beyond the caller's memory.
    const BEYOND: u8 = 0xaa;

    // SAFETY: integers only, the first one is the size.
    unsafe impl Versioned for V1 {
        const NAME: &'static str = "v_t";
        const SIZE_V1: usize = SIZE_V1;
        const UNKNOWN: u8 = 0xff;
    }

    // SAFETY: as above.
    unsafe impl Versioned for V2 {
        const NAME: &'static str = "v_t";
        const SIZE_V1: usize = SIZE_V1;
        const UNKNOWN: u8 = 0xff;
    }

    /// The memory of a program: structs of `N` bytes, and what follows them.
    #[repr(C, align(8))]
    #[derive(Clone, Copy)]
    struct Program<const N: usize> {
        structs: [[u8; N]; 2],
        beyond: [u8; 32],
    }

    impl<const N: usize> Program<N> {
        /// Structs with these fields behind `size`.
        fn new(fields: [&[u32]; 2]) -> Self {
            let mut structs = [[0; N]; 2];
            for (bytes, fields) in structs.iter_mut().zip(fields) {
                let words = std::iter::once(N as u32).chain(fields.iter().copied());
                for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
            }
            let beyond = [BEYOND; 32];
            Self { structs, beyond }
        }

        /// The library's view of them.
        fn array<T: Versioned>(&mut self, count: usize) -> Result<Array<T>, Error> {
            let first = (&raw mut *self).cast::<T>();
            // SAFETY: there are two structs of `N` bytes, unless `size` was
            // changed to a larger one.
            unsafe { Array::new("structs", first, count) }
        }

        fn fields(&self, index: usize) -> Vec<u32> {
            let words = self.structs[index].chunks_exact(4);
            words
                .map(|word| u32::from_ne_bytes(word.try_into().expect("4 bytes")))
                .collect()
        }

        fn is_intact(&self) -> bool {
            self.beyond == [BEYOND; 32]
        }
    }

    type Old = Program<SIZE_V1>;
    type New = Program<SIZE_V2>;

    fn message<T>(result: Result<T, Error>) -> String {
        match result {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_new_library_reads_the_missing_fields_of_an_old_program_as_zero() {
        let mut program = Old::new([&[7], &[8]]);
        let array = program.array::<V2>(2).expect("a right size");
        let read: Vec<_> = array.iter().collect::<Result<_, _>>().expect("right");
        let one = |value| V2 {
            size: SIZE_V1 as u32,
            value,
            option: 0,
            result: 0,
        };
        assert_eq!(read, [one(7), one(8)]);
    }

    #[test]
    fn a_new_library_writes_nothing_beyond_the_structs_of_an_old_program() {
        let mut program = Old::new([&[7], &[8]]);
        let array = program.array::<V2>(2).expect("a right size");
        array.update(1, |element| {
            element.value = 9;
            element.result = 10;
        });
        assert!(program.is_intact());
        assert_eq!(program.fields(0), [SIZE_V1 as u32, 7]);
        assert_eq!(program.fields(1), [SIZE_V1 as u32, 9]);

        let array = program.array::<V2>(2).expect("a right size");
        let result = V2 {
            value: 11,
            result: 12,
            ..Versioned::new()
        };
        array.write(0, &result);
        array.write(1, &result);
        assert!(program.is_intact());
        for index in 0..2 {
            assert_eq!(program.fields(index), [SIZE_V1 as u32, 11]);
        }
    }

    #[test]
    fn an_old_library_accepts_the_unset_fields_of_a_new_program() {
        let mut program = New::new([&[7, 0, 0], &[8, 0, 0]]);
        let array = program.array::<V1>(2).expect("a right size");
        let read: Vec<_> = array.iter().collect::<Result<_, _>>().expect("right");
        let size = SIZE_V2 as u32;
        assert_eq!(read, [V1 { size, value: 7 }, V1 { size, value: 8 }]);

        // In structs that are both, it leaves the fields alone.
        array.update(1, |element| element.value = 9);
        assert_eq!(program.fields(0), [size, 7, 0, 0]);
        assert_eq!(program.fields(1), [size, 9, 0, 0]);
        assert!(program.is_intact());
    }

    #[test]
    fn an_old_library_rejects_the_set_fields_of_a_new_program() {
        for wrong in [[8, 1, 0], [8, 0, 1], [8, u32::MAX, 0], [8, 0, 1 << 31]] {
            let mut program = New::new([&[7, 0, 0], &wrong]);
            let array = program.array::<V1>(2).expect("a right size");
            assert!(array.read(0).is_ok());
            let wanted = "v_t: a field that this version does not know is set";
            assert_eq!(message(array.read(1)), wanted);
        }
    }

    #[test]
    fn an_old_library_fills_the_results_that_only_a_new_program_has() {
        let mut program = New::new([&[7, 0, 0], &[0, 0, 0]]);
        let array = program.array::<V1>(2).expect("a right size");
        let result = V1 {
            value: 9,
            ..Versioned::new()
        };
        for index in 0..2 {
            array.write(index, &result);
            // The program can pass it again.
            assert_eq!(array.read(index).expect("right").value, 9);
        }
        assert!(program.is_intact());
        for index in 0..2 {
            let filled = [SIZE_V2 as u32, 9, u32::MAX, u32::MAX];
            assert_eq!(program.fields(index), filled);
        }
    }

    #[test]
    fn the_library_allocates_arrays_with_the_programs_size() {
        for size in [SIZE_V1, 12, SIZE_V2, SIZE_V2 + 4, LONGEST] {
            let (memory, array) = Array::<V2>::allocate(size, 3).expect("a right size");
            for index in 0..3 {
                let value = V2 {
                    value: index as u32,
                    ..Versioned::new()
                };
                array.write_whole(index, &value).expect("it fits");
            }
            let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
            for (index, bytes) in bytes.chunks_exact(size).take(3).enumerate() {
                assert_eq!(bytes[..4], (size as u32).to_ne_bytes());
                assert_eq!(bytes[4..8], (index as u32).to_ne_bytes());
            }
        }
        for size in [0, SIZE_V1 - 4, SIZE_V1 + 1, LONGEST + 4, usize::MAX] {
            let wanted = "argument \"size\" is not the size of v_t";
            assert_eq!(message(Array::<V2>::allocate(size, 3)), wanted);
        }
        // Not without a field that was requested.
        let (_memory, array) = Array::<V2>::allocate(SIZE_V1, 1).expect("a right size");
        let value = V2 {
            option: 1,
            ..Versioned::new()
        };
        let wanted = "v_t: size is too small for this result";
        assert_eq!(message(array.write_whole(0, &value)), wanted);
    }

    #[test]
    fn other_sizes_are_rejected() {
        for size in [
            0,
            4,
            SIZE_V1 - 1,
            LONGEST + 1,
            0x7fff_ffff,
            u32::MAX as usize,
        ] {
            let mut program = Old::new([&[7], &[8]]);
            program.structs[0][..4].copy_from_slice(&(size as u32).to_ne_bytes());
            let wanted = "v_t: size is not initialised";
            assert_eq!(message(program.array::<V1>(1)), wanted);
            assert_eq!(message(program.array::<V2>(2)), wanted);
        }
        let mut program = New::new([&[7, 0, 0], &[8, 0, 0]]);
        program.structs[1][..4].copy_from_slice(&(SIZE_V1 as u32).to_ne_bytes());
        let array = program.array::<V1>(2).expect("a right size");
        let wanted = "array \"structs\" has elements of different sizes";
        assert_eq!(message(array.read(1)), wanted);
    }
}
