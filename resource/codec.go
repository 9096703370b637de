package resource

import (
	"fmt"
	"strings"
)

// FieldError is what is wrong with one field.
type FieldError struct {
	// Path such as spec.interfaces[0].mac or metadata.labels["rack"].
	Path    string
	Message string
}

// Error returns path and message.
func (e FieldError) Error() string {
	if e.Path == "" {
		return e.Message
	}
	return e.Path + ": " + e.Message
}

// FieldErrors is everything that is wrong with one resource, in the order of
// its fields. It is never empty.
type FieldErrors struct {
	// Kind and Name of the resource.
	Kind, Name string
	Errors     []FieldError
}

// Error returns all of it on one line.
func (e *FieldErrors) Error() string {
	parts := make([]string, len(e.Errors))
	for i, f := range e.Errors {
		parts[i] = f.Error()
	}
	return fmt.Sprintf("%s/%s: %s", strings.ToLower(e.Kind), e.Name, strings.Join(parts, "; "))
}

// add appends one error.
func (e *FieldErrors) add(path, format string, args ...any) {
	e.Errors = append(e.Errors, FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
}
