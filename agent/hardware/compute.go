package hardware

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
)

// kind is one sort of computation. Each uses another part of a processor.
type kind int

// The kinds.
const (
	kindSHA    kind = iota // SHA-256: its own instructions or vectors of integers
	kindAES                // AES-256-CTR: AES instructions
	kindFloat              // matrices of float64: multiplication, division, square root
	kindMatrix             // matrices of uint64: wide integer multiplication
	kinds
)

// String is the measure in results.
func (k kind) String() string {
	return [kinds]string{"sha256", "aes256_ctr", "float64_matrix", "uint64_matrix"}[k]
}

// unit is what an operation of this kind is.
func (k kind) unit() string {
	if k < kindFloat {
		return unitBytesPerSecond
	}
	return unitFlops
}

// units is how many different computations a seed gives. Unit i is of kind i
// modulo kinds.
const units = 16

const (
	blockBytes = 256 << 10
	order      = 48 // of the matrices: three of 48² words stay in a 64 KiB cache
)

// knownSeed is the default seed. Its answers are known beforehand, so that
// even a machine with one processor is held against others.
const knownSeed = 1

// known are the answers of knownSeed, by unit. They are the same on every
// processor: SHA and AES are exact, and so is IEEE 754 where nothing is fused.
var known = [units]uint64{
	0x6b2282fd0e2fcd22, 0x30ecf43719679a0d, 0x117ff3035ff2cfc9, 0x1194403f7547761a,
	0xb932c15942f5c2f1, 0xc8efbdac1e791eff, 0x036190624c0f0ded, 0xa84a43554720ced0,
	0x2e23f384451f956b, 0x8c4aa6012f607f50, 0x7608565e64499ec5, 0xb408652e6deafecc,
	0xbe9e2d0ce98f1527, 0x750aa25c3e7803a3, 0x421254c55487024f, 0xbf58c49d84d291ea,
}

// computer does the work of one seed on one processor.
type computer struct {
	seed  uint64
	block []byte
	out   []byte
	a, b  [order * order]float64
	x, y  [order * order]uint64
	c     [order * order]float64
	z     [order * order]uint64
}

func newComputer(seed uint64) *computer {
	c := &computer{seed: seed, block: make([]byte, blockBytes), out: make([]byte, blockBytes)}
	fillRandom(c.block, seed)
	g := splitmix(^seed)
	for i := range c.a {
		c.x[i], c.y[i] = g.next(), g.next()
		c.a[i] = 1 + float64(c.x[i]>>12)/(1<<52)
		c.b[i] = 1 + float64(c.y[i]>>12)/(1<<52)
	}
	return c
}

// run does unit i and returns its answer and how many operations it took.
func (c *computer) run(i int) (answer uint64, operations int64) {
	switch kind(i) % kinds {
	case kindSHA:
		return c.sha(uint64(i)), blockBytes
	case kindAES:
		return c.aes(uint64(i)), blockBytes
	case kindFloat:
		return c.floats(i), 2 * order * order * order
	default:
		return c.integers(uint64(i)), 2 * order * order * order
	}
}

func (c *computer) sha(i uint64) uint64 {
	binary.LittleEndian.PutUint64(c.block, c.seed^i)
	sum := sha256.Sum256(c.block)
	return binary.BigEndian.Uint64(sum[:])
}

func (c *computer) aes(i uint64) uint64 {
	binary.LittleEndian.PutUint64(c.block, c.seed^i)
	b, err := aes.NewCipher(c.block[:32])
	if err != nil {
		return 0 // a key of 32 bytes is never refused
	}
	cipher.NewCTR(b, c.block[32:48]).XORKeyStream(c.out, c.block)
	return fold(c.out)
}

// fold takes up every byte.
func fold(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64(h^binary.LittleEndian.Uint64(b), 29) * 0x9e3779b97f4a7c15
	}
	return h
}

// floats multiplies two matrices. The conversions keep the compiler from fusing
// multiplication and addition, which would round once instead of twice
// (Go specification, "Floating-point operators").
func (c *computer) floats(i int) uint64 {
	shift := float64(i + 1)
	h := uint64(14695981039346656037)
	for row := range order {
		line := c.a[row*order : (row+1)*order]
		into := c.c[row*order : (row+1)*order]
		clear(into)
		for k, v := range line {
			v = float64(v * shift)
			for col, w := range c.b[k*order : (k+1)*order] {
				into[col] += float64(v * w)
			}
		}
		for col := range into {
			h = bits.RotateLeft64(h^math.Float64bits(math.Sqrt(into[col])/shift), 29) * 0x9e3779b97f4a7c15
		}
	}
	return h
}

func (c *computer) integers(i uint64) uint64 {
	h := uint64(14695981039346656037)
	for row := range order {
		line := c.x[row*order : (row+1)*order]
		into := c.z[row*order : (row+1)*order]
		clear(into)
		for k, v := range line {
			v += i
			for col, w := range c.y[k*order : (k+1)*order] {
				into[col] += v * w
			}
			high, _ := bits.Mul64(v, into[k])
			h ^= high
		}
		for _, v := range into {
			h = bits.RotateLeft64(h^v, 29) * 0x9e3779b97f4a7c15
		}
	}
	return h
}
