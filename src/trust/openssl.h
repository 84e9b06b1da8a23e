/*
 * OpenSSL, loaded when the first key is needed and not when the program starts: its libraries cost a process
 * almost 2 MiB and 3 ms, and most monitors of a host never move.
 *
 * Include this instead of <openssl/...>. Every function of OpenSSL that src/trust calls is in the list, and a call
 * to it goes through the table; one that is not in the list does not link. openssl_load() comes before any call.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

/* A list, and laid out as one. */
/* clang-format off */
#define OPENSSL_FUNCTIONS(F)                                                                    \
    F(ASN1_INTEGER_set) F(ASN1_TIME_set_string_X509) F(BIO_ctrl) F(BIO_f_buffer) F(BIO_free)    \
    F(BIO_int_ctrl) F(BIO_new) F(BIO_new_mem_buf) F(BIO_number_read) F(BIO_number_written)      \
    F(BIO_push) F(BIO_s_mem) F(BIO_s_secmem) F(BIO_test_flags) F(BIO_up_ref) F(CRYPTO_free)     \
    F(ERR_clear_error) F(ERR_peek_error) F(ERR_reason_error_string) F(EVP_Digest)               \
    F(EVP_PKEY_Q_keygen) F(EVP_PKEY_free) F(EVP_PKEY_get_base_id) F(EVP_sha256)                 \
    F(OPENSSL_init_ssl) F(PEM_read_bio_PrivateKey) F(PEM_write_bio_PKCS8PrivateKey)             \
    F(SSL_CIPHER_get_name) F(SSL_CTX_ctrl) F(SSL_CTX_free) F(SSL_CTX_new)                       \
    F(SSL_CTX_set_cert_verify_callback) F(SSL_CTX_set_ciphersuites)                             \
    F(SSL_CTX_set_default_read_buffer_len) F(SSL_CTX_set_max_early_data)                        \
    F(SSL_CTX_set_num_tickets) F(SSL_CTX_set_options) F(SSL_CTX_set_verify)                     \
    F(SSL_CTX_use_PrivateKey) F(SSL_CTX_use_certificate) F(SSL_do_handshake) F(SSL_free)        \
    F(SSL_get_current_cipher) F(SSL_get_error) F(SSL_get_ex_data)                               \
    F(SSL_get_ex_data_X509_STORE_CTX_idx) F(SSL_get_fd) F(SSL_get_rbio) F(SSL_get_wbio)         \
    F(SSL_has_pending) F(SSL_key_update) F(SSL_new) F(SSL_read) F(SSL_read_ex) F(SSL_set0_rbio) \
    F(SSL_set0_wbio) F(SSL_set_accept_state) F(SSL_set_connect_state) F(SSL_set_ex_data)        \
    F(SSL_set_fd) F(SSL_shutdown) F(SSL_write) F(SSL_write_ex) F(TLS_method)                    \
    F(X509_NAME_add_entry_by_txt) F(X509_STORE_CTX_get0_cert) F(X509_STORE_CTX_get_ex_data)     \
    F(X509_STORE_CTX_set_error) F(X509_free) F(X509_get0_pubkey) F(X509_get_serialNumber)       \
    F(X509_get_subject_name) F(X509_getm_notAfter) F(X509_getm_notBefore) F(X509_new)           \
    F(X509_set_issuer_name) F(X509_set_pubkey) F(X509_set_version) F(X509_sign) F(i2d_PUBKEY)
/* clang-format on */

struct openssl {
#define OPENSSL_FIELD(name) __typeof__(&name) name;
    OPENSSL_FUNCTIONS(OPENSSL_FIELD)
#undef OPENSSL_FIELD
};

/* Written once, by the first openssl_load(). */
extern struct openssl openssl;

/* Any thread, any number of times. -ENOENT: the libraries of this version are not installed. */
int openssl_load(struct err *err) MUST_CHECK;

#ifndef OPENSSL_LOADS
#define ASN1_INTEGER_set openssl.ASN1_INTEGER_set
#define ASN1_TIME_set_string_X509 openssl.ASN1_TIME_set_string_X509
#define BIO_ctrl openssl.BIO_ctrl
#define BIO_f_buffer openssl.BIO_f_buffer
#define BIO_free openssl.BIO_free
#define BIO_int_ctrl openssl.BIO_int_ctrl
#define BIO_new openssl.BIO_new
#define BIO_new_mem_buf openssl.BIO_new_mem_buf
#define BIO_number_read openssl.BIO_number_read
#define BIO_number_written openssl.BIO_number_written
#define BIO_push openssl.BIO_push
#define BIO_s_mem openssl.BIO_s_mem
#define BIO_s_secmem openssl.BIO_s_secmem
#define BIO_test_flags openssl.BIO_test_flags
#define BIO_up_ref openssl.BIO_up_ref
#define CRYPTO_free openssl.CRYPTO_free
#define ERR_clear_error openssl.ERR_clear_error
#define ERR_peek_error openssl.ERR_peek_error
#define ERR_reason_error_string openssl.ERR_reason_error_string
#define EVP_Digest openssl.EVP_Digest
#define EVP_PKEY_Q_keygen openssl.EVP_PKEY_Q_keygen
#define EVP_PKEY_free openssl.EVP_PKEY_free
#define EVP_PKEY_get_base_id openssl.EVP_PKEY_get_base_id
#define EVP_sha256 openssl.EVP_sha256
#define OPENSSL_init_ssl openssl.OPENSSL_init_ssl
#define PEM_read_bio_PrivateKey openssl.PEM_read_bio_PrivateKey
#define PEM_write_bio_PKCS8PrivateKey openssl.PEM_write_bio_PKCS8PrivateKey
#define SSL_CIPHER_get_name openssl.SSL_CIPHER_get_name
#define SSL_CTX_ctrl openssl.SSL_CTX_ctrl
#define SSL_CTX_free openssl.SSL_CTX_free
#define SSL_CTX_new openssl.SSL_CTX_new
#define SSL_CTX_set_cert_verify_callback openssl.SSL_CTX_set_cert_verify_callback
#define SSL_CTX_set_ciphersuites openssl.SSL_CTX_set_ciphersuites
#define SSL_CTX_set_default_read_buffer_len openssl.SSL_CTX_set_default_read_buffer_len
#define SSL_CTX_set_max_early_data openssl.SSL_CTX_set_max_early_data
#define SSL_CTX_set_num_tickets openssl.SSL_CTX_set_num_tickets
#define SSL_CTX_set_options openssl.SSL_CTX_set_options
#define SSL_CTX_set_verify openssl.SSL_CTX_set_verify
#define SSL_CTX_use_PrivateKey openssl.SSL_CTX_use_PrivateKey
#define SSL_CTX_use_certificate openssl.SSL_CTX_use_certificate
#define SSL_do_handshake openssl.SSL_do_handshake
#define SSL_free openssl.SSL_free
#define SSL_get_current_cipher openssl.SSL_get_current_cipher
#define SSL_get_error openssl.SSL_get_error
#define SSL_get_ex_data openssl.SSL_get_ex_data
#define SSL_get_ex_data_X509_STORE_CTX_idx openssl.SSL_get_ex_data_X509_STORE_CTX_idx
#define SSL_get_fd openssl.SSL_get_fd
#define SSL_get_rbio openssl.SSL_get_rbio
#define SSL_get_wbio openssl.SSL_get_wbio
#define SSL_has_pending openssl.SSL_has_pending
#define SSL_key_update openssl.SSL_key_update
#define SSL_new openssl.SSL_new
#define SSL_read openssl.SSL_read
#define SSL_read_ex openssl.SSL_read_ex
#define SSL_set0_rbio openssl.SSL_set0_rbio
#define SSL_set0_wbio openssl.SSL_set0_wbio
#define SSL_set_accept_state openssl.SSL_set_accept_state
#define SSL_set_connect_state openssl.SSL_set_connect_state
#define SSL_set_ex_data openssl.SSL_set_ex_data
#define SSL_set_fd openssl.SSL_set_fd
#define SSL_shutdown openssl.SSL_shutdown
#define SSL_write openssl.SSL_write
#define SSL_write_ex openssl.SSL_write_ex
#define TLS_method openssl.TLS_method
#define X509_NAME_add_entry_by_txt openssl.X509_NAME_add_entry_by_txt
#define X509_STORE_CTX_get0_cert openssl.X509_STORE_CTX_get0_cert
#define X509_STORE_CTX_get_ex_data openssl.X509_STORE_CTX_get_ex_data
#define X509_STORE_CTX_set_error openssl.X509_STORE_CTX_set_error
#define X509_free openssl.X509_free
#define X509_get0_pubkey openssl.X509_get0_pubkey
#define X509_get_serialNumber openssl.X509_get_serialNumber
#define X509_get_subject_name openssl.X509_get_subject_name
#define X509_getm_notAfter openssl.X509_getm_notAfter
#define X509_getm_notBefore openssl.X509_getm_notBefore
#define X509_new openssl.X509_new
#define X509_set_issuer_name openssl.X509_set_issuer_name
#define X509_set_pubkey openssl.X509_set_pubkey
#define X509_set_version openssl.X509_set_version
#define X509_sign openssl.X509_sign
#define i2d_PUBKEY openssl.i2d_PUBKEY
#endif
