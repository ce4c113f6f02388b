"""Log-probs of chosen tokens: one function, `dispatch.token_logps`, and the versions that it chooses from."""
