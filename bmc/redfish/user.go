package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/bedplate/bedplate/bmc"
)

// account is the ManagerAccount schema.
type account struct {
	Path     string `json:"@odata.id"`
	ID       string `json:"Id"`
	UserName string
	RoleID   string `json:"RoleId"`
	Enabled  *bool
	Locked   bool
}

// roles are the schema's words for the roles that are predefined.
var roles = map[string]bmc.Role{
	"Administrator": bmc.RoleAdministrator,
	"Operator":      bmc.RoleOperator,
	"ReadOnly":      bmc.RoleReadOnly,
	"None":          bmc.RoleNone,
	"NoAccess":      bmc.RoleNone,
}

// roleWord returns the schema's word for a role.
func roleWord(role bmc.Role) (string, error) {
	for _, word := range []string{"Administrator", "Operator", "ReadOnly"} {
		if roles[word] == role {
			return word, nil
		}
	}
	return "", fmt.Errorf("no BMC user can be made with role %q: use administrator, operator or read-only", role)
}

// accounts reads all accounts, those of free slots too.
func (d *Driver) accounts(ctx context.Context) (collection string, all []account, err error) {
	ctx = withBudget(ctx)
	if d.root.AccountService.Path == "" {
		return "", nil, d.lacks("users")
	}
	var service struct{ Accounts link }
	if _, err := d.get(ctx, d.root.AccountService.Path, &service); err != nil {
		return "", nil, err
	}
	if service.Accounts.Path == "" {
		return "", nil, d.lacks("users")
	}
	var problem error
	err = d.each(ctx, service.Accounts.Path, func(path string, raw json.RawMessage) {
		var a account
		if err := decode(raw, &a); err != nil {
			problem = err
			return
		}
		a.Path = path
		all = append(all, a)
	}, func(err error) { problem = err })
	if err == nil && len(all) == 0 {
		err = problem
	}
	return service.Accounts.Path, all, err
}

// Users lists the accounts that have a name.
func (d *Driver) Users(ctx context.Context) ([]bmc.User, error) {
	_, all, err := d.accounts(ctx)
	if err != nil {
		return nil, err
	}
	var users []bmc.User
	for _, a := range all {
		if a.UserName == "" {
			continue
		}
		u := bmc.User{ID: a.ID, Name: a.UserName, Role: roles[a.RoleID], Enabled: a.Enabled == nil || *a.Enabled, Locked: a.Locked}
		if u.Role == "" {
			u.Role = bmc.Role(a.RoleID)
		}
		users = append(users, u)
	}
	return users, nil
}

// find returns the account of a name.
func (d *Driver) find(ctx context.Context, name string) (account, error) {
	_, all, err := d.accounts(ctx)
	if err != nil {
		return account{}, err
	}
	i := slices.IndexFunc(all, func(a account) bool { return a.UserName == name })
	if i < 0 || name == "" {
		return account{}, fmt.Errorf("user %q: %w", name, bmc.ErrNotFound)
	}
	return all[i], nil
}

// CreateUser makes an account, or fills a free slot where the service has those.
func (d *Driver) CreateUser(ctx context.Context, name, password string, role bmc.Role) error {
	word, err := roleWord(role)
	if err != nil {
		return err
	}
	collection, all, err := d.accounts(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(a account) bool { return a.UserName == name }) {
		return fmt.Errorf("user %q exists already", name)
	}
	defer d.hide(password)()
	body := map[string]any{"UserName": name, "Password": password, "RoleId": word, "Enabled": true}
	_, err = d.post(ctx, collection, body)
	var refused *Error
	if err == nil || !errors.As(err, &refused) || !refused.badRequest() && refused.Status != http.StatusNotFound {
		return err
	}
	if slot, ok := freeSlot(all); ok {
		return d.patch(ctx, slot.Path, body)
	}
	return err
}

// hide keeps a secret out of errors until the function it returns is called.
func (d *Driver) hide(secret string) func() {
	d.secrets = append(d.secrets, secret)
	return func() { d.secrets = d.secrets[:len(d.secrets)-1] }
}

// SetPassword writes an account's password.
func (d *Driver) SetPassword(ctx context.Context, name, password string) error {
	a, err := d.find(ctx, name)
	if err != nil {
		return err
	}
	defer d.hide(password)()
	return d.patch(ctx, a.Path, map[string]any{"Password": password})
}

// DeleteUser deletes an account, or empties its slot.
func (d *Driver) DeleteUser(ctx context.Context, name string) error {
	a, err := d.find(ctx, name)
	if err != nil {
		return err
	}
	_, err = d.write(ctx, http.MethodDelete, a.Path, nil, nil)
	var refused *Error
	if errors.As(err, &refused) && (refused.badRequest() || errors.Is(refused, bmc.ErrUnsupported)) {
		return d.emptySlot(ctx, a)
	}
	return err
}
