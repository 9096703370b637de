package redfish

import (
	"net/http"
	"strconv"

	"github.com/bedplate/bedplate/lab/board"
)

func getAccountService(c *call) error {
	o := c.resource("AccountService", "v1_10_0", "AccountService", "Account Service")
	o["ServiceEnabled"], o["Status"] = true, enabled
	o["MinPasswordLength"], o["MaxPasswordLength"] = 4, 20
	o["AuthFailureLoggingThreshold"], o["AccountLockoutThreshold"] = 0, 0
	o["Accounts"], o["Roles"] = ref("/AccountService/Accounts"), ref("/AccountService/Roles")
	return c.show(o)
}

func getAccounts(c *call) error {
	var members []string
	for _, a := range c.b.Accounts() {
		members = append(members, accountPath(a.ID))
	}
	return c.collection("ManagerAccountCollection", "Accounts", members...)
}

func accountPath(id int) string { return "/AccountService/Accounts/" + strconv.Itoa(id) }

func (c *call) accountObject(a board.Account) object {
	o := c.resource("ManagerAccount", "v1_9_0", strconv.Itoa(a.ID), "User Account")
	o["UserName"], o["RoleId"], o["Enabled"], o["Locked"], o["Password"] = a.Username, a.Role, a.Enabled, false, nil
	o["AccountTypes"] = []string{"Redfish", "IPMI"}
	o["PasswordChangeRequired"] = false
	o["Links"] = object{"Role": ref("/AccountService/Roles/" + string(a.Role))}
	return o
}

func (c *call) accountNamed() (board.Account, error) {
	id, err := strconv.Atoi(c.vars[0])
	if err != nil {
		return board.Account{}, errNotFound(c.path)
	}
	a, err := c.b.Account(id)
	if err != nil {
		return a, errNotFound(c.path)
	}
	return a, nil
}

func getAccount(c *call) error {
	a, err := c.accountNamed()
	if err != nil {
		return err
	}
	return c.show(c.accountObject(a))
}

// accountBody is what may be set of an account.
type accountBody struct {
	UserName, Password, RoleId *string //nolint:revive // Redfish's own spelling
	Enabled, Locked            *bool
}

func (body accountBody) apply(a board.Account) board.Account {
	if body.UserName != nil {
		a.Username = *body.UserName
	}
	if body.Password != nil {
		a.Password = *body.Password
	}
	if body.RoleId != nil {
		a.Role = board.Role(*body.RoleId)
	}
	if body.Enabled != nil {
		a.Enabled = *body.Enabled
	}
	return a
}

// patchAccount: one's own password, or as administrator everything.
func patchAccount(c *call) error {
	a, err := c.accountNamed()
	if err != nil {
		return err
	}
	var body accountBody
	if err := c.matches(c.accountObject(a)); err != nil {
		return err
	}
	if err := c.read(&body); err != nil {
		return err
	}
	ownPassword := a.ID == c.account.ID && body.UserName == nil && body.RoleId == nil && body.Enabled == nil && body.Locked == nil
	if !ownPassword && !c.may(users) {
		return errPrivilege()
	}
	if a, err = c.b.PutAccount(body.apply(a)); err != nil {
		return err
	}
	return c.show(c.accountObject(a))
}

func postAccount(c *call) error {
	var body accountBody
	if err := c.read(&body); err != nil {
		return err
	}
	for name, p := range map[string]*string{"UserName": body.UserName, "Password": body.Password, "RoleId": body.RoleId} {
		if p == nil {
			return errMissing(name)
		}
	}
	a, err := c.b.PutAccount(body.apply(board.Account{Enabled: true}))
	if err != nil {
		return err
	}
	c.path = root + accountPath(a.ID)
	c.w.Header().Set("Location", c.path)
	return c.json(http.StatusCreated, c.accountObject(a))
}

func deleteAccount(c *call) error {
	a, err := c.accountNamed()
	if err != nil {
		return err
	}
	if err := c.b.DeleteAccount(a.ID); err != nil {
		return err
	}
	return c.done()
}

// rolePrivileges are those of the predefined roles (DSP0266 §13.6).
var rolePrivileges = map[board.Role][]string{
	board.Administrator: {"Login", "ConfigureManager", "ConfigureUsers", "ConfigureSelf", "ConfigureComponents"},
	board.Operator:      {"Login", "ConfigureSelf", "ConfigureComponents"},
	board.ReadOnly:      {"Login", "ConfigureSelf"},
	board.NoAccess:      {},
}

func getRoles(c *call) error {
	return c.collection("RoleCollection", "Roles", "/AccountService/Roles/Administrator", "/AccountService/Roles/Operator", "/AccountService/Roles/ReadOnly", "/AccountService/Roles/NoAccess")
}

func getRole(c *call) error {
	privileges, ok := rolePrivileges[board.Role(c.vars[0])]
	if !ok {
		return errNotFound(c.path)
	}
	o := c.resource("Role", "v1_3_1", c.vars[0], c.vars[0]+" Role")
	o["RoleId"], o["IsPredefined"], o["AssignedPrivileges"], o["OemPrivileges"] = c.vars[0], true, privileges, []string{}
	return c.show(o)
}
