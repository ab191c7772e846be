// Package tickets decides which gateways may open sessions with which machines, and until when. While there is a
// reason for contact (a fault of the machine that stands on the vehicle's topic, or an operator's command to the
// vehicle) one ticket stands for the pair of machine and vehicle; schemas.Ticket is what the gateway gets.
//
// A ticket is issued once, kept by the Store, renewed at half of its validity, and withdrawn when the reason is gone:
// an hour after a fault closed, for the gateway's farewell to the machine, and at once when the machine moved on, the
// command expired or the vehicle's tickets were revoked. Every ticket has a number that is higher than all before it.
// A machine that accepted a ticket refuses those with a lower number, so that the newest always ought to be
// that of the vehicle that is to act; Book issues anew where it is not.
//
// Book is pure. The secret of a ticket is in its sealed half only, which nobody reads without the machine's key.
package tickets
