//! Reads values from the bytes of an input. After its end all values are zero.

pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end
    }

    pub fn one_of<T: Clone>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())].clone()
    }

    /// The next `length` bytes, or fewer at the end of the input.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A small number, a number at a limit, or any number.
    pub fn int(&mut self) -> i64 {
        const EDGES: [i64; 8] = [
            -1,
            0,
            i32::MAX as i64,
            i32::MIN as i64,
            u32::MAX as i64,
            i64::MAX,
            i64::MIN,
            262,
        ];
        match self.u8() {
            byte @ 0..200 => i64::from(byte) - 1,
            byte @ 200..250 => EDGES[usize::from(byte) % EDGES.len()],
            _ => self.u64() as i64,
        }
    }
}
