package convert

import (
	"bufio"
	"io"
)

// peeker is a reader whose beginning can be looked at. After that reads go past
// its buffer, so that large ones aren't copied twice.
type peeker struct{ *bufio.Reader }

func newPeeker(r io.Reader) peeker { return peeker{bufio.NewReaderSize(r, 64<<10)} }

// Peek returns the first n bytes, or all there are.
func (p peeker) Peek(n int) ([]byte, error) {
	b, err := p.Reader.Peek(n)
	if err == io.EOF { //nolint:errorlint // Wrapped in another failure it is not the end.
		err = nil
	}
	return b, err
}
