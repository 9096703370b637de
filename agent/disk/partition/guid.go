package partition

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a globally unique identifier in the byte order of UEFI appendix A:
// the first three fields little-endian.
type GUID [16]byte

// ParseGUID reads the usual text form, in either case.
func ParseGUID(s string) (GUID, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 || len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return GUID{}, fmt.Errorf("%q: not a GUID such as 0fc63daf-8483-4772-8e79-3d69d8477de4", s)
	}
	return swap(GUID(raw)), nil
}

func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// RandomGUID makes a version 4 GUID of 16 random bytes (RFC 9562 §5.4).
func RandomGUID(random [16]byte) GUID {
	random[6] = random[6]&0x0f | 0x40
	random[8] = random[8]&0x3f | 0x80
	return swap(GUID(random))
}

// String returns the text form in lower case, as the kernel prints it.
func (g GUID) String() string {
	h := hex.EncodeToString(g.big())
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero reports whether g is all zero, which marks an unused entry.
func (g GUID) IsZero() bool { return g == GUID{} }

func (g GUID) big() []byte {
	s := swap(g)
	return s[:]
}

func swap(g GUID) GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}
