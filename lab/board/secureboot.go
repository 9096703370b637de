package board

// HasSecureBoot reports whether the firmware has Secure Boot.
func (b *Board) HasSecureBoot() bool { return false }
