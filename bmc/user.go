package bmc

import "context"

// Role is what a BMC's user may do.
type Role string

// The roles.
const (
	RoleAdministrator Role = "administrator"
	RoleOperator      Role = "operator"
	RoleReadOnly      Role = "read-only"
	RoleNone          Role = "none"
)

// User is an account on a BMC.
type User struct {
	// ID is the BMC's own: a slot number, as a rule.
	ID      string
	Name    string
	Role    Role
	Enabled bool
	// Locked is set after too many wrong passwords.
	Locked bool
}

// Users are a BMC's accounts. To change the password that a Pool itself logs in
// with, call Pool.SetPassword: it proves the new one before it reports success.
type Users interface {
	Users(ctx context.Context) ([]User, error)
	CreateUser(ctx context.Context, name, password string, role Role) error
	SetPassword(ctx context.Context, name, password string) error
	// DeleteUser returns ErrNotFound when there is none.
	DeleteUser(ctx context.Context, name string) error
}
