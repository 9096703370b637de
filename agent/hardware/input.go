package hardware

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// maxDuration bounds what a test may be told to take.
const maxDuration = 7 * 24 * time.Hour

// maxSeed is the largest whole number that survives being a float64, which is
// what outputs are on their way to the server.
const maxSeed = 1<<53 - 1

func text(req step.Request, name string) string {
	s, _ := req.With[name].(string)
	return s
}

// duration reads an input such as 90s.
func duration(req step.Request, name string, otherwise time.Duration) (time.Duration, error) {
	s := text(req, name)
	if s == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxDuration {
		return 0, fmt.Errorf("%s is %q: want a duration such as 90s or 2h, of at most %s", name, s, maxDuration)
	}
	return d, nil
}

// number reads a whole number, which may have come as a float64.
func number(req step.Request, name string, otherwise, least, most int64) (int64, error) {
	n := otherwise
	switch v := req.With[name].(type) {
	case int64:
		n = v
	case float64:
		n = int64(v)
	}
	if n < least || n > most {
		return 0, fmt.Errorf("%s is %d: want %d to %d", name, n, least, most)
	}
	return n, nil
}

// fraction reads a number above 0 and up to 1.
func fraction(req step.Request, name string, otherwise float64) (float64, error) {
	f := otherwise
	switch v := req.With[name].(type) {
	case int64:
		f = float64(v)
	case float64:
		f = v
	}
	if !(f > 0 && f <= 1) {
		return 0, fmt.Errorf("%s is %v: want a number above 0 and at most 1", name, f)
	}
	return f, nil
}

func texts(req step.Request, name string) []string {
	list, _ := req.With[name].([]any)
	var out []string
	for _, v := range list {
		if s, ok := v.(string); ok && s != "" {
			out = append(out, s)
		}
	}
	return out
}

// seed is the one that is given, or a random one.
func (s *Service) seed(req step.Request) (uint64, error) {
	n, err := number(req, "seed", 0, 0, maxSeed)
	if err != nil || n > 0 {
		return uint64(n), err
	}
	var b [8]byte
	if _, err := io.ReadFull(s.Random, b[:]); err != nil {
		return 0, fmt.Errorf("making a seed: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:])%maxSeed + 1, nil
}

// splitmix is the generator of all test data: SplitMix64 (Steele, Lea, Flood,
// OOPSLA 2014). The same seed gives the same data on every machine.
type splitmix uint64

func (s *splitmix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fillRandom fills b with the data of a seed.
func fillRandom(b []byte, seed uint64) {
	g := splitmix(seed)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, g.next())
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], g.next())
		copy(b, last[:])
	}
}
