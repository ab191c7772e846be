// Package enrol gets a device its certificate, and the next one before it is over. The key is made on the device and never leaves it. Whom
// to trust the device knows by the fingerprint of the fleet's authority, which comes to it on another way than the network: in the URL that a
// technician brings, as text or QR code.
//
// A crash or a lost answer at any moment leaves a folder from which the same call goes on with the same key. Key and certificate are one file,
// so that one cannot take its place without the other.
package enrol
