package ipmi

import (
	"time"

	"github.com/bougou/go-ipmi/pkg/clock"
)

// realClock is the library's clock with the board's time of day.
type realClock struct{ now func() time.Time }

func (c realClock) Now() time.Time { return c.now() }

func (c realClock) NewTimer(d time.Duration) clock.Timer { return clock.Real.NewTimer(d) }

func (c realClock) NewTicker(d time.Duration) clock.Ticker { return clock.Real.NewTicker(d) }
