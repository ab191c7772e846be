// Package enrol decides who gets a certificate. It has the fleet's certificate authority, the register of the certificates that it
// signed, one-time codes, the list of devices that wait to be admitted, and revocation.
//
// A device makes its key itself and asks with a certificate request over HTTPS. Of the request only the public key is taken. Who
// the device is says the permit that it uses: a code that an administrator made for a role and a name, or an administrator's
// admission of its key. A permit gives one certificate; the answer to it may be asked again by the same key while the permit
// holds, since an answer may be lost. A device whose certificate is good renews it over TLS with that certificate.
//
// Decisions are pure functions over a transaction of the Store, which the fleet's store implements. Registry acts at the rim.
package enrol
