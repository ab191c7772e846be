package view

import "net/url"

// MachineLink is the console's page of a machine, empty for no machine.
func MachineLink(id string) string { return link("/machines/", id) }

// RouteLink is the console's page of a route.
func RouteLink(id string) string { return link("/routes/", id) }

// FaultLink is the console's page of a fault.
func FaultLink(id string) string { return link("/faults/", id) }

// LedgerLink is the console's page of what the ledger has of a machine.
func LedgerLink(id string) string { return link("/ledger/", id) }

// RulesLink is the console's page of the rules of a route.
func RulesLink(id string) string { return link("/rules/route/", id) }

func link(prefix, id string) string {
	if id == "" {
		return ""
	}
	return prefix + url.PathEscape(id)
}
