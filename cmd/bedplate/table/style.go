package table

// Style colours text, if it is on.
type Style struct{ On bool }

func (s Style) wrap(code, text string) string {
	if !s.On || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Good is for what has worked.
func (s Style) Good(text string) string { return s.wrap("32", text) }

// Bad is for what has failed.
func (s Style) Bad(text string) string { return s.wrap("31", text) }

// Busy is for what goes on.
func (s Style) Busy(text string) string { return s.wrap("33", text) }

// Dim is for what matters less.
func (s Style) Dim(text string) string { return s.wrap("2", text) }

// Bold is for headings.
func (s Style) Bold(text string) string { return s.wrap("1", text) }

// State colours the name of a state by what it means.
func (s Style) State(state string) string {
	switch state {
	case "failed", "quarantined", "cancelled", "warning":
		return s.Bad(state)
	case "active", "available", "succeeded", "ready":
		return s.Good(state)
	case "provisioning", "releasing", "inspecting", "testing", "running", "booting", "backoff",
		"waiting", "waiting_for_machine", "waiting_for_approval", "queued", "pending":
		return s.Busy(state)
	case "skipped", "retired":
		return s.Dim(state)
	}
	return state
}
