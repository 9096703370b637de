package registry

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntilStalled(t *testing.T) {
	t.Run("a transfer that stands still ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, v := untilStalled(t.Context(), time.Minute)
			defer v.stop()
			start := time.Now()
			<-ctx.Done()
			if got, want := time.Since(start), time.Minute; got != want {
				t.Errorf("ended after %s, want %s", got, want)
			}
			if err := v.explain(ctx, context.Canceled); !errors.Is(err, errStalled) {
				t.Errorf("error is %v", err)
			}
		})
	})
	t.Run("one that moves, however slowly, goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, v := untilStalled(t.Context(), time.Minute)
			slow := readerFunc(func(p []byte) (int, error) {
				time.Sleep(50 * time.Second) // of the bubble's clock
				return 1, ctx.Err()
			})
			if n, err := io.ReadFull(v.reader(slow), make([]byte, 10)); n != 10 || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
			v.stop()
			if err := v.explain(ctx, io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error is %v", err)
			}
		})
	})
}
