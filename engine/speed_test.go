package engine

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSpeed(t *testing.T) {
	s := newSpeed()
	server := httptest.NewServer(s)
	defer server.Close()
	ask := func(method, query, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	t.Run("GET gives as many bytes as are asked for", func(t *testing.T) {
		if code, b := ask(http.MethodGet, "?bytes=300001", ""); code != http.StatusOK || len(b) != 300001 {
			t.Errorf("%d, %d bytes", code, len(b))
		}
	})
	t.Run("POST takes them and says how many came", func(t *testing.T) {
		if code, b := ask(http.MethodPost, "", strings.Repeat("x", 12345)); code != http.StatusOK || b != "12345\n" {
			t.Errorf("%d, %q", code, b)
		}
	})
	for _, query := range []string{"", "?bytes=0", "?bytes=-1", "?bytes=x", fmt.Sprintf("?bytes=%d", int64(maxSpeedBytes)+1)} {
		t.Run("GET refuses "+query, func(t *testing.T) {
			if code, _ := ask(http.MethodGet, query, ""); code != http.StatusBadRequest {
				t.Errorf("%d", code)
			}
		})
	}
	t.Run("other methods are refused", func(t *testing.T) {
		if code, _ := ask(http.MethodDelete, "", ""); code != http.StatusMethodNotAllowed {
			t.Errorf("%d", code)
		}
	})
	t.Run("there is room for so many and no more", func(t *testing.T) {
		for range maxSpeedAtOnce {
			s.room <- struct{}{}
		}
		if code, _ := ask(http.MethodGet, "?bytes=1", ""); code != http.StatusServiceUnavailable {
			t.Errorf("%d", code)
		}
		<-s.room
		if code, _ := ask(http.MethodGet, "?bytes=1", ""); code != http.StatusOK {
			t.Errorf("%d after one has gone", code)
		}
	})
}
