package resource

import "testing"

func TestSelector(t *testing.T) {
	labels := map[string]string{"rack": "r1", "zone": "", "a.b/c": "x"}
	for text, want := range map[string]bool{
		"":                           true,
		"  ":                         true,
		"rack=r1":                    true,
		"rack==r1":                   true,
		"rack = r1":                  true,
		"rack=r2":                    false,
		"rack!=r2":                   true,
		"rack!=r1":                   false,
		"none!=r1":                   true,
		"rack":                       true,
		"!rack":                      false,
		"! none":                     true,
		"none":                       false,
		"zone":                       true,
		"zone=":                      true,
		"rack in (r0,r1)":            true,
		"rack in ( r0 , r1 )":        true,
		"rack in (r0)":               false,
		"none in (r1)":               false,
		"rack notin (r0)":            true,
		"rack notin (r0,r1)":         false,
		"none notin (r0)":            true,
		"rack in (r0,r1),!none":      true,
		"rack in (r0,r1),none":       false,
		"a.b/c=x,rack,zone notin(y)": true,
	} {
		s, err := ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := s.Matches(labels); got != want {
			t.Errorf("%q matches: %v", text, got)
		}
		again, err := ParseSelector(s.String())
		if err != nil || again.Matches(labels) != want {
			t.Errorf("%q is written as %q: %v", text, s, err)
		}
	}
	for text, want := range map[string]string{
		"=r1":          `parsing label selector "=r1": "": not a label's key`,
		"a,,b":         `parsing label selector "a,,b": "": not a label's key`,
		"a in r1":      `parsing label selector "a in r1": "a in r1": not a label's key`,
		"a in (r1":     "parsing label selector \"a in (r1\": \"a in (r1\": not of the form `key in (a,b)` or `key notin (a,b)`",
		"a within (b)": `parsing label selector "a within (b)": "a within (b)": "within" is neither in nor notin`,
		"a=b=c":        `parsing label selector "a=b=c": "b=c": not a label's value`,
		"a!b":          `parsing label selector "a!b": "a!b": neither =, == nor !=`,
	} {
		if s, err := ParseSelector(text); err == nil || err.Error() != want {
			t.Errorf("%q: got %q, %v; want %q", text, s, err, want)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"a=b", "a!=b,c in (d,e),!f", "a notin ()", "a in (b,c),d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q is written as %q, and that as %q: %v", text, s, again, err)
		}
	})
}
